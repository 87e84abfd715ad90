"""Sizes of CLIP encoders, read off their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Head counts cannot be read off the tensors, so the tiny encoders agree on a head width.
TEXT_HEAD_WIDTH = 16
VISION_HEAD_WIDTH = 32


def encoder_sizes(state_dict: Mapping[str, Tensor], prefix: str, head_width: int) -> dict[str, Any]:
    """Return the part of a transformers config that the tensors of a CLIP encoder tell; prefix ends in "layers."."""
    feed_forward, width = state_dict[f"{prefix}0.mlp.fc1.weight"].shape
    return {
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_attention_heads": width // head_width,
        "num_hidden_layers": len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}),
    }
