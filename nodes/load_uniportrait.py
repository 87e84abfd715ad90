"""The node Load UniPortrait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ops
from comfy_api.latest import io

from ..adapters.checkpoint import read_tensors
from ..adapters.families import FACE_BACKBONE
from ..adapters.uniportrait import load_uniportrait
from ..faces.backbone import IRBackbone
from ..model_patches.uniportrait_encoder import UniPortraitEncoder
from ..model_patches.uniportrait_models import UniPortraitModels
from .damaged_files import published_sizes
from .model_files import (
    BACKBONE,
    FACEID,
    IMAGE_PROMPT,
    NONE,
    ROUTER,
    check_kind,
    chosen_state,
    file_options,
    find_file,
    likely_or_none,
)
from .types import AdapterType

_SLOTS = {"faceid": FACEID, "router": ROUTER, "backbone": BACKBONE, "image_prompt": IMAGE_PROMPT}
_NODE = "Load UniPortrait"


class LoadUniPortrait(io.ComfyNode):
    """Loads UniPortrait's files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_LoadUniPortrait",
            display_name="Load UniPortrait",
            category="Likeness/UniPortrait",
            description="Loads UniPortrait, which draws one or several people with an SD 1.5 model.",
            search_aliases=["uniportrait", "faceid", "identity adapter", "load adapter", "ip-adapter face"],
            inputs=[
                _file_input("faceid", file_options(FACEID), "The faceid file: what a face becomes, and one person."),
                io.Combo.Input(
                    "router",
                    options=file_options(ROUTER, optional=True),
                    default=likely_or_none(ROUTER),
                    tooltip="The router file, for two or more people in one picture. (none) is enough for one person. "
                    "From models/uniportrait.",
                ),
                _file_input("backbone", file_options(BACKBONE), "The face recognition backbone that sees the photos."),
                io.Combo.Input(
                    "image_prompt",
                    options=file_options(IMAGE_PROMPT, optional=True),
                    default=NONE,
                    advanced=True,
                    tooltip="ip-adapter_sd15, only for the image prompt of Apply UniPortrait. From models/uniportrait.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Load CLIP Vision with the ViT-H/14 of IP-Adapter. Without it (and without the backbone) "
                    "saved identities still work, but photos cannot be encoded.",
                ),
            ],
            outputs=[AdapterType.Output("adapter", display_name="adapter", tooltip="For Encode Identity and Apply.")],
        )

    @classmethod
    @published_sizes()
    def execute(
        cls, faceid: str, router: str, backbone: str, image_prompt: str, clip_vision: Any = None
    ) -> io.NodeOutput:
        weights = load_uniportrait(
            find_file(FACEID, faceid, _NODE),
            None if router == NONE else find_file(ROUTER, router, _NODE),
            None if image_prompt == NONE else find_file(IMAGE_PROMPT, image_prompt, _NODE),
            operations=comfy.ops.manual_cast,
        )
        encoder = None
        if clip_vision is not None:
            face_network = load_backbone(find_file(BACKBONE, backbone, _NODE))
            encoder = UniPortraitEncoder(weights, face_network, clip_vision)
        return io.NodeOutput(UniPortraitModels(weights, encoder))

    @classmethod
    def validate_inputs(cls, faceid: str, router: str, backbone: str, image_prompt: str) -> bool:
        """Let names of missing files through: the error of `execute` says where such a file comes from."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> dict[str, tuple[int, int] | None]:
        """Load again when a file was replaced."""
        return {slot: chosen_state(wanted, str(inputs.get(slot))) for slot, wanted in _SLOTS.items()}


def load_backbone(path: Path) -> IRBackbone:
    """The face recognition backbone in a file.

    Raises:
        CheckpointError: the file is damaged, incomplete or another kind of model.
    """
    file = read_tensors(path)
    check_kind(file, FACE_BACKBONE, BACKBONE, "backbone")
    return IRBackbone.from_state_dict(file.tensors, operations=comfy.ops.manual_cast)


def _file_input(slot: str, options: list[str], tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(slot, options=options, default=options[0], tooltip=f"{tooltip} From models/uniportrait.")
