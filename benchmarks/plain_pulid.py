"""PuLID written down plainly, as the published code runs it: the yardstick of the benchmark.

Keys and values of the identity are computed in every layer and step, zero tokens included, for each row of the batch;
each layer asks for the noise level on the host, to know whether the step lies in the window; the blocks of FLUX run
with their own projections, and write into the image tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher

from ..adapters.attention import merge_heads, split_heads
from ..adapters.flux_attention import FluxCrossAttention
from ..adapters.identity import Identity
from ..adapters.layers import AttentionLayer
from ..adapters.pulid_attention import Injection, pulid_attention
from ..model_patches.base_model import WantedBase, find_flux_places
from ..model_patches.pulid_models import PulidModels
from ..model_patches.slots import host_attention

BASE = WantedBase("benchmark", "PuLID", "FLUX models", "use one")


def apply_plainly(model: ModelPatcher, models: PulidModels, identity: Identity, injection: Injection) -> ModelPatcher:
    """A clone of `model` that computes the same as `apply_pulid` for one person, without saving any work."""
    patched = model.clone()
    patched.set_additional_models("plain", list(models.patchers.values()))
    weights = models.weights
    if weights.sizes.block is None:
        for layer in weights.sizes.layers:
            if layer.is_cross:
                patch = _cross(models, layer, identity, injection)
                patched.set_model_attn2_replace(patch, layer.block, layer.block_id, layer.index)
        return patched
    places = find_flux_places(model, BASE, weights.sizes.block.dim, weights.sizes.num_blocks)
    assert weights.blocks is not None
    for place, block in zip(places, weights.blocks, strict=True):
        patched.set_model_patch_replace(_block(block, identity, injection.scale), "dit", place.kind, place.index)
    return patched


def _in_window(options: dict[str, Any]) -> bool:
    return options["sigmas"][0].item() >= 0.0


def _tokens_of_rows(identity: Identity, options: dict[str, Any], like: torch.Tensor) -> torch.Tensor:
    chunks = options["cond_or_uncond"]
    rows = like.shape[0] // len(chunks)
    return torch.cat([identity.tokens["uncond" if kind else "cond"].expand(rows, -1, -1) for kind in chunks]).to(like)


def _cross(
    models: PulidModels, layer: AttentionLayer, identity: Identity, injection: Injection
) -> Callable[..., torch.Tensor]:
    assert models.weights.projections is not None
    projection = models.weights.projections[str(layer.number)]

    def patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        attention, heads = host_attention(options), options["n_heads"]
        out = attention(q, k, v, heads)
        if not _in_window(options):
            return out
        tokens = F.pad(_tokens_of_rows(identity, options, q), (0, 0, 0, injection.num_zero))
        term = pulid_attention(q, out, [projection(tokens)], None, heads, injection.form, attention)
        return out + injection.scale * term

    return patch


def _block(block: FluxCrossAttention, identity: Identity, scale: float) -> Callable[..., dict[str, Any]]:
    def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out, options = extra["original_block"](args), args["transformer_options"]
        if not _in_window(options):
            return out
        text = options["img_slice"][0] if options["block_type"] == "single" else 0
        image = out["img"][:, text:]
        image += scale * _attended(block, _tokens_of_rows(identity, options, image), image)
        return out

    return patch


def _attended(block: FluxCrossAttention, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    keys, values = block.to_kv(block.norm1(tokens)).chunk(2, dim=-1)
    q, k, v = (split_heads(x, block.heads) for x in (block.to_q(block.norm2(image)), keys, values))
    logits = (q * q.shape[-1] ** -0.25) @ (k * q.shape[-1] ** -0.25).transpose(-1, -2)
    return block.to_out(merge_heads(logits.float().softmax(-1).to(v) @ v))
