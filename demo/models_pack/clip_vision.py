"""The tiny CLIP vision tower, which the stock loader refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.clip_vision
import comfy.utils
import folder_paths
from comfy_api.latest import io
from torch import Tensor

from .encoders import VISION_HEAD_WIDTH, encoder_sizes


class LoadCLIPVision(io.ComfyNode):
    """The stock loader goes by the number of layers and refuses a tiny tower; this one reads the sizes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessDemo_LoadCLIPVision",
            display_name="Load Tiny CLIP Vision (demo)",
            category="likeness/demo",
            description="Loads the tiny CLIP vision tower of the Likeness demo. For real towers use Load CLIP Vision.",
            inputs=[io.Combo.Input("clip_name", options=folder_paths.get_filename_list("clip_vision"))],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        state_dict = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("clip_vision", clip_name))
        model = comfy.clip_vision.ClipVisionModel(vision_config(state_dict, clip_name))
        missing, unexpected = model.load_sd(state_dict)
        if missing or unexpected:
            raise ValueError(f"{clip_name} is not a tiny CLIP vision tower: missing {missing}, unexpected {unexpected}")
        return io.NodeOutput(model)


def vision_config(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Return the config of a CLIP vision tower in transformers naming; the image is as large as its position table."""
    patch_key = "vision_model.embeddings.patch_embedding.weight"
    if patch_key not in state_dict or "visual_projection.weight" not in state_dict:
        raise ValueError(f"{name} is not a CLIP vision tower in the naming of transformers: {patch_key} is missing")
    patch = state_dict[patch_key].shape[-1]
    tokens = state_dict["vision_model.embeddings.position_embedding.weight"].shape[0]
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "num_channels": 3,
        "image_size": round((tokens - 1) ** 0.5) * patch,
        "patch_size": patch,
        "projection_dim": state_dict["visual_projection.weight"].shape[0],
    } | encoder_sizes(state_dict, "vision_model.encoder.layers.", VISION_HEAD_WIDTH)
