"""The node PuLID Options: how Encode Identity reads photos for PuLID."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ..adapters.references import JOININGS
from .types import PuLIDOptionsType

ONE_FACE, TWO_FACES = FACES = ("one for both", "as released")
SHRINKING: dict[str, bool | None] = {"as released": None, "smooth": True, "sharp": False}  # label -> antialias
MOST_SEEDS = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class PhotoReading:
    """LIKENESS_PULID_OPTIONS on the wire; the defaults are what happens without the node.

    Attributes:
        joining: how several photos become one person, one of `references.JOININGS`.
        one_face: False to let the most central face of a picture be looked at, and the largest recognised.
        antialias: of the picture that EVA-CLIP sees; None is as each edition was released.
        noise, seed: of the negative prompt's nobody, see `references.person_tokens`.
    """

    joining: str = JOININGS[0]
    one_face: bool = True
    antialias: bool | None = None
    noise: float = 0.0
    seed: int = 0


class PuLIDOptions(io.ComfyNode):
    """How photos are read for PuLID."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_PuLIDOptions",
            display_name="PuLID Options",
            category="Likeness/PuLID",
            description="How Encode Identity reads photos for PuLID. Rarely needed: without this node everything is as "
            "published.",
            search_aliases=["pulid settings", "combine photos", "id mix", "average embeddings", "fusion"],
            inputs=[
                io.Combo.Input(
                    "joining",
                    options=list(JOININGS),
                    default=JOININGS[0],
                    tooltip="How several photos become one person. published: v1 takes all of the first photo and the "
                    "main part of each other one, v1.1 and FLUX read all together. all tokens: v1 takes all of each. "
                    "mean: the average of the photos, as older ComfyUI packs do.",
                ),
                io.Combo.Input(
                    "faces",
                    options=list(FACES),
                    default=ONE_FACE,
                    tooltip="one for both: the same face is recognised and looked at. as released: of several faces "
                    "the most central one is looked at and the largest one recognised, who may be two people.",
                ),
                io.Combo.Input(
                    "shrinking",
                    options=list(SHRINKING),
                    default="as released",
                    tooltip="How the face shrinks to the size that EVA-CLIP sees. as released: sharp for v1, smooth "
                    "for v1.1 and FLUX.",
                ),
                io.Float.Input(
                    "noise",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Strength of noise in the place of nobody, whom the negative prompt shows. For workflows "
                    "of older packs; 0 is as published.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=MOST_SEEDS,
                    control_after_generate=False,  # or the browser draws another one for each run, by this name
                    advanced=True,
                    tooltip="Seed of that noise. The same seed gives the same person again.",
                ),
            ],
            outputs=[
                PuLIDOptionsType.Output(
                    "options", display_name="options", tooltip="For pulid_options, Encode Identity."
                )
            ],
        )

    @classmethod
    def execute(cls, joining: str, faces: str, shrinking: str, noise: float, noise_seed: int) -> io.NodeOutput:
        return io.NodeOutput(PhotoReading(joining, faces == ONE_FACE, SHRINKING[shrinking], noise, noise_seed))
