"""The tiny SD 1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
from torch import Tensor

from .encoders import TEXT_HEAD_WIDTH, encoder_sizes


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
        encoder = _text_encoder(encoder_sizes(state_dict, layers, TEXT_HEAD_WIDTH))
        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, encoder)
