"""The people of an Apply node: what the sockets hold, who is there, and who is left out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from comfy_api.latest import io

from ..adapters.identity import Identity
from .types import IdentityType

MOST_PEOPLE = 10


def people_inputs() -> list[io.Input]:
    """The growing inputs `identities` and `masks`, the same for every system."""
    return [
        io.Autogrow.Input("identities", template=_numbered(_identity_input(), 1), tooltip="Who is drawn."),
        io.Autogrow.Input(
            "masks",
            template=_numbered(_mask_input(), 0),
            tooltip="Where each person may appear; mask_2 belongs to identity_2. Gaps are allowed: people "
            "without a mask share what no mask covers.",
        ),
    ]


def window_inputs() -> list[io.Input]:
    """`start_percent` and `end_percent`."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps before the people come in. With 0.1 the prompt alone sets the composition.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps after which the people are left out again.",
        ),
    ]


def soft_edges_input(default: bool) -> io.Input:
    """`keep_soft_edges`; the default is what each system needs."""
    return io.Boolean.Input(
        "keep_soft_edges",
        default=default,
        advanced=True,
        tooltip="Let grey parts of a mask work at part strength. Off: as UniPortrait was published, where only shares "
        "between masks are soft.",
    )


def connected_people(
    identities: Mapping[str, Identity], masks: Mapping[str, torch.Tensor], node: str
) -> tuple[list[Identity], tuple[torch.Tensor | None, ...]]:
    """The people in the order of their sockets, and a mask or None for each; identity_2 belongs to mask_2.

    Those of whom no photo showed a face (see Encode Identity) are left out, with their masks.

    Raises:
        ValueError: a mask without its identity.
    """
    by_number = {name.removeprefix("mask_"): mask for name, mask in masks.items()}
    by_person = {name.removeprefix("identity_"): identity for name, identity in identities.items()}
    for number in by_number:
        if number not in by_person:
            raise ValueError(
                f"{node}: mask_{number} is connected, but identity_{number} is not. Connect the identity, or move the "
                "mask to the number of the person it belongs to."
            )
    there = {number: identity for number, identity in by_person.items() if not identity.is_nobody}
    return list(there.values()), tuple(by_number.get(number) for number in there)


def _numbered(template: io.Input, least: int) -> io.Autogrow.TemplateNames:
    names = [f"{template.id}_{number}" for number in range(1, MOST_PEOPLE + 1)]
    return io.Autogrow.TemplateNames(template, names=names, min=least)


def _identity_input() -> io.Input:
    return IdentityType.Input("identity", tooltip="One person, from Encode, Mix or Load Identity.")


def _mask_input() -> io.Input:
    return io.Mask.Input(
        "mask", tooltip="Where the identity of the same number may appear, in the shape of the picture being made."
    )
