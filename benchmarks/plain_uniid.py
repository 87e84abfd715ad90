"""UniID written down plainly, as the published code runs it: the yardstick of the benchmark.

ID tokens travel behind the prompt, for each row of the batch; each layer takes them off, computes their keys and values
anew, asks for the noise level on the host to know its scale, and copies both norms there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ..adapters.identity import Identity
from ..adapters.layers import AttentionLayer
from ..adapters.projection import token_attention
from ..model_patches.sampling_run import Schedule
from ..model_patches.slots import host_attention
from ..model_patches.uniid_models import UniidModels
from ..model_patches.uniid_patch import UniidSettings
from ..model_patches.uniid_prompt import Conditioning, Group, with_words

TOKENS = "plain_uniid_tokens"


def apply_plainly(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    models: UniidModels,
    identity: Identity,
    settings: UniidSettings,
) -> tuple[ModelPatcher, Conditioning, Conditioning]:
    """Model and prompts that compute the same as `apply_uniid` for one person, without saving any work."""
    patched = model.clone()
    patched.set_additional_models("plain", list(models.patchers.values()))
    sampling = model.get_model_object("model_sampling")
    threshold = settings.merge.threshold(Schedule(sampling))
    words = with_words(positive, [Group(identity.tokens["text"])], settings.merge, settings.text, sampling)
    for layer in models.weights.sizes.layers:
        if layer.is_cross:
            patch = _cross(models, layer, settings, threshold)
            patched.set_model_attn2_replace(patch, layer.block, layer.block_id, layer.index)
    patched.set_model_attn2_patch(_take_off(len(identity.tokens["cond"])))
    return patched, _with_tokens(words, identity.tokens["cond"]), _with_tokens(negative, identity.tokens["uncond"])


def _with_tokens(conditioning: Conditioning, tokens: torch.Tensor) -> Conditioning:
    return [[torch.cat([embeds, tokens[None].to(embeds)], dim=1), options] for embeds, options in conditioning]


def _take_off(count: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    def patch(
        x: torch.Tensor, context: torch.Tensor, values: torch.Tensor, options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        options[TOKENS] = context[:, -count:]
        return x, context[:, :-count], values[:, :-count]

    return patch


def _cross(
    models: UniidModels, layer: AttentionLayer, settings: UniidSettings, threshold: float
) -> Callable[..., torch.Tensor]:
    assert models.weights.projections is not None
    projection = models.weights.projections[str(layer.number)]

    def patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        attention, heads = host_attention(options), options["n_heads"]
        out = attention(q, k, v, heads)
        added = token_attention(q, projection(options[TOKENS]), heads, attention)
        scale = settings.adapter.after if options["sigmas"][0].item() <= threshold else settings.adapter.before
        if settings.rescaling:
            wanted, norms = (x.float().norm(dim=(1, 2), keepdim=True).cpu() for x in (out, added))
            if (norms < 1e-6).any():
                norms = norms + 1e-6
            added = added * (wanted / norms).to(added)
        return out + scale * added

    return patch
