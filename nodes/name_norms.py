"""The node Name Norms, and the names that come with the pack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..model_patches.name_norms import NameNorms as NormsOfNames
from ..model_patches.name_norms import names_norms
from .previews import shown
from .types import NameNormsType

# People of history, all of them long dead: a list of our own making, one name on a line.
HISTORICAL_NAMES = Path(__file__).parent / "data" / "historical_names.txt"
TOKENS, MOST_TOKENS = 3, 16
_ENCODERS = ("CLIP-L", "CLIP-G")


class NameNorms(io.ComfyNode):
    """Measures how long names are as vectors in the text encoders, so that a person's words get that length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_NameNorms",
            display_name="Name Norms",
            category="Likeness/UniID",
            description="Measures how loud people's names are in these text encoders, so that UniID's words for a face "
            "can be made as loud. Only two numbers for each word are taken from the names.",
            search_aliases=["uniid", "celebrity names", "norm matching", "token norm", "text branch"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders of the SDXL checkpoint that draws the picture."),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    tooltip="One name on a line. Empty: the pack's own list of people of history.",
                ),
                io.Int.Input(
                    "tokens",
                    default=TOKENS,
                    min=1,
                    max=MOST_TOKENS,
                    advanced=True,
                    tooltip="How many words the text branch makes of a face; 3 in the published file.",
                ),
            ],
            outputs=[NameNormsType.Output("name_norms", display_name="name_norms", tooltip="For Apply or Load UniID.")],
        )

    @classmethod
    def execute(cls, clip: Any, names: str, tokens: int) -> io.NodeOutput:
        own = [line.strip() for line in names.splitlines() if line.strip()]
        norms = names_norms(clip, own or historical_names(), tokens)
        if not own:
            norms = replace(norms, label=f"{norms.label} of people of history")
        return io.NodeOutput(norms, ui=shown(cls, _description(norms)))


def _description(norms: NormsOfNames) -> str:
    encoders = (", ".join(f"{value:.2f}" for value in column) for column in norms.values.T.tolist())
    return "\n".join([norms.label, *(f"{name}: {lengths}" for name, lengths in zip(_ENCODERS, encoders, strict=True))])


def historical_names() -> list[str]:
    """The names that come with the pack."""
    return HISTORICAL_NAMES.read_text("utf-8").splitlines()
