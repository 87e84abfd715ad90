"""LoRA on a UNet's attention layers: merged into the weights by ComfyUI, or evaluated inside a window of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from comfy.weight_adapter import LoRAAdapter

from ..adapters.layers import AttentionLayer
from ..adapters.lora import AttentionLoRA

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

INPUTS_KEY = "likeness_layer_inputs"
OUTPUT_KEY = "likeness_layer_output"
_WEIGHTS = {"to_q": "to_q.weight", "to_k": "to_k.weight", "to_v": "to_v.weight", "to_out": "to_out.0.weight"}


def merge_lora(
    model: ModelPatcher, layers: tuple[AttentionLayer, ...], lora: Mapping[str, AttentionLoRA], scale: float
) -> None:
    """Add the LoRA as weight patches: W + scale·U·D, merged once by ComfyUI, free per step."""
    patches = {}
    for layer in layers:
        for name, weight in _WEIGHTS.items():
            pair = getattr(lora[str(layer.number)], name)
            factors = (pair.up.weight.detach(), pair.down.weight.detach(), None, None, None, None)
            patches[layer.weight_prefix + weight] = LoRAAdapter(set(), factors)
    added = model.add_patches(patches, scale)
    assert len(added) == len(patches), f"{len(patches) - len(added)} LoRA weights found no place in the model"


class LayerLoRA:
    """The LoRA of one layer, evaluated beside the frozen weights; for windows that are not the whole run.

    q, k and v are corrected in the replace slot, the output projection in an output patch, since ComfyUI applies to_out
    after the slot. What another pack adds outside our slot passes to_out without LoRA.
    """

    def __init__(self, lora: AttentionLoRA, scale: float) -> None:
        self.lora = lora
        self.scale = scale

    def on_inputs(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Add the LoRA to q, k, v (B, n|m, C)."""
        x, context, value = options[INPUTS_KEY]
        return (
            torch.add(q, self.lora.to_q(x).to(q), alpha=self.scale),
            torch.add(k, self.lora.to_k(context.to(q.dtype)).to(k), alpha=self.scale),
            torch.add(v, self.lora.to_v(value.to(q.dtype)).to(v), alpha=self.scale),
        )

    def remember_output(self, out: torch.Tensor, options: dict[str, Any]) -> None:
        """Leave the input of to_out for `correct_output`."""
        options[OUTPUT_KEY] = (self, out)


def correct_output(x: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    """attn1/attn2 output patch: add what the LoRA on to_out gives, if a slot of this layer left its input."""
    layer, out = extra_options.pop(OUTPUT_KEY, (None, None))
    if layer is None:
        return x
    return torch.add(x, layer.lora.to_out(out).to(x), alpha=layer.scale)


def keep_inputs(
    x: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra_options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """attn1/attn2 patch: hand the layer's inputs on to the slot; `extra_options` lives for one transformer block."""
    extra_options[INPUTS_KEY] = (x, context, value)
    return x, context, value


def layer_input(extra_options: dict[str, Any]) -> torch.Tensor:
    """The tensor (B, n, C) that to_q of this layer was given."""
    return extra_options[INPUTS_KEY][0]


def add_once(model: ModelPatcher, patch: Callable[..., Any], name: str) -> None:
    """Add an attention patch to the list `name` unless it is there already."""
    if patch not in model.model_options["transformer_options"].get("patches", {}).get(name, []):
        model.set_model_patch(patch, name)
