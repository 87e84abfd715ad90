"""The tiny SDXL: all of its 70 transformers, 64 channels wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
from torch import Tensor

from .encoders import TEXT_HEAD_WIDTH, encoder_sizes

LABELS = 32 + 6 * 256  # pooled text, and six numbers about the picture's size


class TinySDXL(comfy.supported_models.SDXL):
    """SDXL with 64 instead of 320 channels and four heads in each layer; ControlNets of that width load by it too."""

    unet_config = {
        **comfy.supported_models.SDXL.unet_config,
        "model_channels": 64,
        "context_dim": 64,
        "adm_in_channels": LABELS,
    }
    unet_extra_config = {**comfy.supported_models.SDXL.unet_extra_config, "num_head_channels": 16}

    def clip_target(self, state_dict: Mapping[str, Tensor] = {}) -> comfy.supported_models_base.ClipTarget:
        encoders = self.process_clip_state_dict(dict(state_dict))
        sizes = {
            f"{name}_model_config": encoder_sizes(
                encoders, f"{name}.transformer.text_model.encoder.layers.", TEXT_HEAD_WIDTH
            )
            for name in ("clip_l", "clip_g")
        }

        class TinyTextEncoders(comfy.sdxl_clip.SDXLClipModel):
            def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] = {}) -> None:  # noqa: B006
                super().__init__(device=device, dtype=dtype, model_options={**model_options, **sizes})

        return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, TinyTextEncoders)
