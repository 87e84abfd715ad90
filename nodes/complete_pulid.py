"""What PuLID from Photo needs between a loaded PuLID and Encode Identity; nothing that a user has to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..faces.arcface import ArcFace
from ..model_patches.pulid_models import PulidModels
from .damaged_files import published_sizes
from .load_pulid import with_encoder
from .types import AdapterType, EvaClipType, RecogniserType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class CompletePuLID(io.ComfyNode):
    """Gives a PuLID that was loaded without them the networks that see photos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_CompletePuLID",
            display_name="Complete PuLID",
            category="Likeness/PuLID",
            description="Gives PuLID the networks that see photos. PuLID from Photo uses it; in a graph of your own "
            "connect them to Load PuLID.",
            search_aliases=["pulid encoder", "attach eva clip", "pulid face networks"],
            inputs=[
                AdapterType.Input("adapter", tooltip="From Load PuLID, with or without EVA-CLIP."),
                EvaClipType.Input("eva_clip", optional=True, tooltip="From Load EVA-CLIP."),
                RecogniserType.Input("recogniser", optional=True, tooltip="From Load Face Recogniser."),
            ],
            outputs=[AdapterType.Output("adapter", display_name="adapter", tooltip="The same PuLID, able to see.")],
            is_dev_only=True,
        )

    @classmethod
    @published_sizes()
    def execute(
        cls, adapter: PulidModels, eva_clip: ModelPatcher | None = None, recogniser: ArcFace | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(adapter if eva_clip is None else with_encoder(adapter, eva_clip, recogniser=recogniser))
