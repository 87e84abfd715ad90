"""The node Mix Identities."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io

from ..adapters.identity import Identity, mix_identities
from ..model_patches.uniportrait_models import SYSTEM as UNIPORTRAIT
from .previews import shown
from .types import IdentityType

MOST_INPUTS = 10


class MixIdentities(io.ComfyNode):
    """Blends several identities into one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_MixIdentities",
            display_name="Mix Identities",
            category="Likeness/identity",
            description="Blends identities into one new person who resembles all of them.",
            search_aliases=["blend faces", "merge identities", "interpolate faces", "face morph", "average face"],
            inputs=[
                io.Autogrow.Input(
                    "identities",
                    template=io.Autogrow.TemplateNames(
                        IdentityType.Input("identity", tooltip="An identity made with the same adapter as the others."),
                        names=[f"identity_{number}" for number in range(1, MOST_INPUTS + 1)],
                        min=2,
                    ),
                    tooltip="Who is mixed. The first is the main one.",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="One number for each identity, such as 2, 1 for two parts to one. Empty: equal shares. "
                    "Only their ratio counts; a negative one moves away from that person.",
                ),
                io.String.Input("label", default="", tooltip="A name for the mix. Empty: made from the names."),
            ],
            outputs=[IdentityType.Output("identity", display_name="identity", tooltip="The blended person.")],
        )

    @classmethod
    def execute(cls, identities: dict[str, Identity], weights: str, label: str) -> io.NodeOutput:
        people = list(identities.values())
        if len(people) < 2:
            raise ValueError("Mix Identities: connect at least two identities.")
        for number, person in enumerate(people, 1):
            if person.is_nobody:
                raise ValueError(f"Mix Identities: no photo of identity {number} showed a face, so it cannot be mixed.")
        shares = parse_shares(weights, len(people))
        names = [person.label or f"person {number}" for number, person in enumerate(people, 1)]
        main, *others = people
        mixed = mix_identities(main, list(zip(others, shares[1:], strict=True)), label.strip() or " + ".join(names))
        text = ", ".join(f"{share:.0%} {name}" for share, name in zip(shares, names, strict=True))
        warnings = []
        if any(not torch.equal(main.tokens["uncond"], other.tokens["uncond"]) for other in others):
            setting = "structure scales" if main.system == UNIPORTRAIT else "noise"
            warnings.append(f"these identities were encoded with different {setting}; use one for all")
        return io.NodeOutput(mixed, ui=shown(cls, text, warnings))


def parse_shares(text: str, count: int) -> list[float]:
    """Shares of `count` people that sum to 1, from weights such as "2, 1"; equal ones for an empty text.

    Raises:
        ValueError: not numbers, another number of them, or a sum of 0.
    """
    if not text.strip():
        return [1 / count] * count
    parts = [part.strip() for part in text.split(",")]
    weights = [_number(part, text) for part in parts]
    if len(weights) != count:
        raise ValueError(
            f"Mix Identities: {len(weights)} weights ({text.strip()}) for {count} identities. Give one for each, "
            "separated by commas and with a point for decimals, or none for equal shares."
        )
    total = math.fsum(weights)
    if abs(total) < 1e-6 * max(map(abs, weights), default=0) or total == 0:
        raise ValueError(f"Mix Identities: the weights {text.strip()} sum to 0, so nobody has a share.")
    return [weight / total for weight in weights]


def _number(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"Mix Identities: {part!r} in the weights {text.strip()!r} is no number. Write them like 2, 1 or 0.7, 0.3."
        )
    return number
