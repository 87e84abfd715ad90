"""Is this model the kind of network that an adapter was trained for?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..adapters.layers import AttentionLayer

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def check_attention_layers(
    model: ModelPatcher, layers: tuple[AttentionLayer, ...], hidden_widths: Sequence[int], context_width: int
) -> None:
    """Refuse a model whose attention layers are not those of the adapter.

    `hidden_widths` holds C of each layer by its number; `context_width` is D of the cross-attention layers.

    Raises:
        ValueError: a layer is missing or has other widths; the message names the model's family and both widths.
    """
    family = type(model.model.model_config).__name__
    for layer in layers:
        try:
            to_q = model.get_model_object(layer.weight_prefix + "to_q")
            to_k = model.get_model_object(layer.weight_prefix + "to_k")
        except AttributeError:
            raise ValueError(
                f"Apply UniPortrait: this is a {family} model. UniPortrait works with SD 1.5 models only (and their "
                "fine-tunes, such as Realistic Vision): load an SD 1.5 checkpoint."
            ) from None
        hidden = hidden_widths[layer.number]
        wanted = (hidden, context_width if layer.is_cross else hidden)
        found = (to_q.out_features, to_k.in_features)
        if found != wanted:
            raise ValueError(
                f"Apply UniPortrait: this is a {family} model with other layer widths than the adapter was made for "
                f"({layer.diffusers}: model {found[0]} wide with context {found[1]}, adapter {wanted[0]} with "
                f"{wanted[1]}). Load an SD 1.5 checkpoint."
            )
