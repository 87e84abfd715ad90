"""Lets ComfyUI load the tiny models of the demo and the tests. Not for anything else: nothing a user needs is in here.

ComfyUI knows models by their widths. This small custom node pack, linked into a custom_nodes folder, adds one class to
the end of its list, which no other model matches (SD 1.5 with 64 channels and 64-wide text), and a loader node for the
tiny CLIP vision tower. A checkpoint and a ControlNet of that width then load through the stock nodes. It stands alone,
because ComfyUI loads it from a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

# Head counts cannot be read off the tensors, so the tiny encoders agree on a head width.
TEXT_HEAD_WIDTH = 16
VISION_HEAD_WIDTH = 32


def _encoder_sizes(state_dict: Mapping[str, Tensor], prefix: str, head_width: int) -> dict[str, Any]:
    """Return the part of a transformers config that the tensors of a CLIP encoder tell; prefix ends in "layers."."""
    feed_forward, width = state_dict[f"{prefix}0.mlp.fc1.weight"].shape
    return {
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_attention_heads": width // head_width,
        "num_hidden_layers": len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}),
    }


def _text_encoder(sizes: dict[str, Any]) -> type[comfy.sd1_clip.SD1ClipModel]:
    """Return SD 1.5's text encoder class at these sizes; ComfyUI makes the object itself, with these arguments."""
    config = {"hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407} | sizes

    class TinyClip(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] = {}) -> None:  # noqa: B006
            super().__init__(
                device=device,
                dtype=dtype,
                return_projected_pooled=False,
                textmodel_json_config=dict(config),
                model_options=model_options,
            )

    class TinyClipModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] = {}) -> None:  # noqa: B006
            super().__init__(device=device, dtype=dtype, clip_model=TinyClip, model_options=model_options)

    return TinyClipModel


class TinyLatent(comfy.latent_formats.LatentFormat):
    """SD 1.5's latents with more channels; an empty latent gets them by itself."""

    scale_factor = 0.18215
    latent_channels = 8


class TinySD15(comfy.supported_models.SD15):
    """SD 1.5 with 64 instead of 320 channels; depth and levels are read from the file as always."""

    latent_format = TinyLatent
    unet_config = {**comfy.supported_models.SD15.unet_config, "model_channels": 64, "context_dim": 64}

    def inpaint_model(self) -> bool:
        """ComfyUI takes everything with more than 4 channels in for an inpainting model."""
        return False

    def clip_target(self, state_dict: Mapping[str, Tensor] = {}) -> comfy.supported_models_base.ClipTarget:
        layers = "cond_stage_model.transformer.text_model.encoder.layers."
        encoder = _text_encoder(_encoder_sizes(state_dict, layers, TEXT_HEAD_WIDTH))
        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, encoder)


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
        model = comfy.clip_vision.ClipVisionModel(_vision_config(state_dict, clip_name))
        missing, unexpected = model.load_sd(state_dict)
        if missing or unexpected:
            raise ValueError(f"{clip_name} is not a tiny CLIP vision tower: missing {missing}, unexpected {unexpected}")
        return io.NodeOutput(model)


def _vision_config(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Any]:
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
    } | _encoder_sizes(state_dict, "vision_model.encoder.layers.", VISION_HEAD_WIDTH)


class DemoExtension(ComfyExtension):
    async def on_load(self) -> None:
        comfy.supported_models.models.append(TinySD15)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadCLIPVision]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
