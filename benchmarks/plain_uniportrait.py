"""UniPortrait written down plainly, as the published code runs it: the yardstick of the benchmark.

LoRA beside the frozen weights in all 32 layers; identity keys and values, router queries and router keys computed in
every layer and step; the router and every identity evaluated for both guidance halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ..adapters.identity import Identity
from ..adapters.layers import SD15_LAYERS, AttentionLayer
from ..adapters.projection import identity_attention
from ..adapters.routing import IDRouter, hard_routing
from ..model_patches.lora import LayerLoRA, correct_output, keep_inputs, layer_input
from ..model_patches.slots import host_attention
from ..model_patches.uniportrait_models import UniPortraitModels


def apply_plainly(
    model: ModelPatcher, models: UniPortraitModels, identities: Sequence[Identity], id_scale: float
) -> ModelPatcher:
    """A clone of `model` that computes the same as `apply_uniportrait`, without saving any work."""
    patched = model.clone()
    several = len(identities) > 1
    lora = models.lora("lora_multi" if several else "lora_single")
    parts = ["projections", "lora_multi", "routers"] if several else ["projections", "lora_single"]
    patched.set_additional_models("plain", [models.patchers[part] for part in parts])
    positive = torch.stack([identity.tokens["cond"] for identity in identities])
    negative = torch.stack([identity.tokens["uncond"] for identity in identities])
    for layer in SD15_LAYERS:
        beside = LayerLoRA(lora[str(layer.number)], 1.0)
        patch = _cross(models, layer, beside, positive, negative, id_scale) if layer.is_cross else _self(beside)
        patched.set_model_patch_replace(patch, layer.kind, layer.block, layer.block_id)
    for kind in ("attn1", "attn2"):
        patched.set_model_patch(keep_inputs, f"{kind}_patch")
        patched.set_model_patch(correct_output, f"{kind}_output_patch")
    return patched


def _self(lora: LayerLoRA) -> Callable[..., torch.Tensor]:
    def patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        out = host_attention(options)(*lora.on_inputs(q, k, v, options), options["n_heads"])
        lora.remember_output(out, options)
        return out

    return patch


def _cross(
    models: UniPortraitModels,
    layer: AttentionLayer,
    lora: LayerLoRA,
    positive: torch.Tensor,
    negative: torch.Tensor,
    id_scale: float,
) -> Callable[..., torch.Tensor]:
    projection = models.projection(layer.number)
    router = models.router(layer.number) if len(positive) > 1 else None

    def patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        attention, heads = host_attention(options), options["n_heads"]
        q, k, v = lora.on_inputs(q, k, v, options)
        out = attention(q, k, v, heads)
        chunks = options["cond_or_uncond"]
        rows = q.shape[0] // len(chunks)
        tokens = torch.cat([(negative if kind else positive).expand(rows, -1, -1, -1) for kind in chunks]).to(q)
        weights = None if router is None else hard_routing(_logits(router, layer_input(options), tokens))
        out = out + id_scale * identity_attention(q, projection(tokens), weights, heads, attention)
        lora.remember_output(out, options)
        return out

    return patch


def _logits(router: IDRouter, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    aggregated = router.aggr_router(tokens.transpose(-1, -2)).squeeze(-1)
    return router.to_q_router(x) @ router.to_k_router(aggregated).transpose(-1, -2)
