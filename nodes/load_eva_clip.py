"""The node Load EVA-CLIP."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..adapters import families
from ..adapters.checkpoint import read_tensors
from ..faces.eva_clip import EvaClip
from ..model_patches.managed import managed_whole
from .damaged_files import published_sizes
from .model_files import AUTO, EVA_CLIP, check_kind, chosen_state, file_options, find_file
from .types import EvaClipType

_NODE = "Load EVA-CLIP"


class LoadEvaClip(io.ComfyNode):
    """Loads the vision tower that PuLID sees faces with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_LoadEvaClip",
            display_name="Load EVA-CLIP",
            category="Likeness/PuLID",
            description="Loads EVA02-CLIP-L-14-336, with which PuLID sees faces. Not needed for saved identities.",
            search_aliases=["eva clip", "eva02", "pulid", "load clip vision", "vision tower"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=file_options(EVA_CLIP, auto=True),
                    default=AUTO,
                    tooltip="EVA02_CLIP_L_336_psz14_s6B.pt, or its edition for timm or open_clip as .safetensors. "
                    "From models/clip_vision, models/clip, models/text_encoders or models/pulid. auto: the one found.",
                )
            ],
            outputs=[EvaClipType.Output("eva_clip", display_name="eva_clip", tooltip="For Load PuLID.")],
        )

    @classmethod
    @published_sizes()
    def execute(cls, file: str) -> io.NodeOutput:
        checkpoint = read_tensors(find_file(EVA_CLIP, file, _NODE))
        if checkpoint.family != families.UNKNOWN:  # of other vision towers the tower itself says more
            check_kind(checkpoint, families.EVA_CLIP, EVA_CLIP, "EVA-CLIP")
        return io.NodeOutput(managed_whole(EvaClip.from_state_dict(checkpoint.tensors, checkpoint.name)))

    @classmethod
    def validate_inputs(cls, file: str) -> bool:
        """Let names of missing files through: the error of `execute` says where such a file comes from."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> tuple[int, int] | None:
        """Load again when the file was replaced."""
        return chosen_state(EVA_CLIP, str(inputs.get("file")))
