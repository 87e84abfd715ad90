"""Checks of the people that are connected to an Apply node, the same for every system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ..adapters.identity import Identity


def labels(identities: Sequence[Identity]) -> tuple[str, ...]:
    """A name for each person, for pictures and messages."""
    return tuple(identity.label or f"person {number}" for number, identity in enumerate(identities, 1))


def check_anybody(title: str, identities: Sequence[Identity]) -> None:
    """Refuse an Apply node without people; title is its name.

    Raises:
        ValueError: nobody is connected.
    """
    if not identities:
        raise ValueError(f"{title}: no identity is connected. Connect at least one Encode Identity.")


class Maker(Protocol):
    """A loaded adapter, as far as these checks ask for it."""

    @property
    def system(self) -> str:
        """The system of its identities."""

    def made(self, identity: Identity) -> bool:
        """True if an identity of its system comes from the weights that are loaded."""


def check_identities(
    title: str, adapter: str, identities: Sequence[Identity], models: Maker, masks: Sequence[torch.Tensor | None]
) -> None:
    """Refuse identities of another system or of other weights than `models`, and more masks than people.

    title is the node's name and adapter what the loaded adapter is called, for the messages.

    Raises:
        ValueError: as said; the message counts identities from 1.
    """
    if len(masks) > len(identities):
        raise ValueError(f"{title}: {len(masks)} masks for {len(identities)} identities.")
    for number, identity in enumerate(identities, 1):
        name = f"identity {number}" + (f" ({identity.label})" if identity.label else "")
        if identity.system != models.system:
            raise ValueError(
                f"{title}: {name} was made by {identity.system}, and {models.system} is connected. Encode the photos "
                f"again with the {adapter} adapter."
            )
        if not models.made(identity):
            raise ValueError(
                f"{title}: {name} was made by another {adapter} file than the one that is loaded. Load the file it was "
                "made with, or encode the photos again."
            )
