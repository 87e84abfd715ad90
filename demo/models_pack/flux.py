"""The tiny FLUX: all of its 19 double and 38 single blocks, 64 channels wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
from torch import Tensor

from .encoders import TEXT_HEAD_WIDTH, encoder_sizes

_T5 = "text_encoders.t5xxl.transformer."
_CLIP = "text_encoders.clip_l.transformer.text_model.encoder.layers."


class TinyFlux(comfy.supported_models.Flux):
    """FLUX with 64 instead of 3072 channels, in four heads; text encoders come with the checkpoint."""

    unet_config = {**comfy.supported_models.Flux.unet_config, "hidden_size": 64, "context_in_dim": 32}
    # ComfyUI reads heads of 128 channels into every file.
    unet_extra_config = {"num_heads": 4, "axes_dim": [4, 6, 6], "mlp_ratio": 2.0}

    def clip_target(self, state_dict: Mapping[str, Tensor] = {}) -> comfy.supported_models_base.ClipTarget:
        sizes = {
            "clip_l_model_config": encoder_sizes(state_dict, _CLIP, TEXT_HEAD_WIDTH),
            "t5xxl_model_config": _t5_sizes(state_dict),
        }

        class TinyTextEncoders(comfy.text_encoders.flux.FluxClipModel):
            def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] = {}) -> None:  # noqa: B006
                super().__init__(device=device, dtype=dtype, model_options={**model_options, **sizes})

        return comfy.supported_models_base.ClipTarget(comfy.text_encoders.flux.FluxTokenizer, TinyTextEncoders)


def _t5_sizes(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the part of a transformers config that T5's tensors tell."""
    blocks = f"{_T5}encoder.block."
    inner, width = state_dict[f"{blocks}0.layer.0.SelfAttention.q.weight"].shape
    heads = state_dict[f"{blocks}0.layer.0.SelfAttention.relative_attention_bias.weight"].shape[1]
    return {
        "d_model": width,
        "d_kv": inner // heads,
        "num_heads": heads,
        "d_ff": state_dict[f"{blocks}0.layer.1.DenseReluDense.wo.weight"].shape[1],
        "num_layers": len({key[len(blocks) :].split(".")[0] for key in state_dict if key.startswith(blocks)}),
    }
