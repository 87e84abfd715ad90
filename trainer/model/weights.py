"""An adapter's weights before training: made new, from stage I's file, or from both files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...adapters.layers import SD15_LAYERS
from ...adapters.resampler import ResamplerSizes
from ...adapters.uniportrait import UniPortrait, UniPortraitSizes, load_uniportrait
from .encoders import FeatureSizes
from .settings import ModelSettings


def new_adapter(unet: Any, features: FeatureSizes, seed: int, settings: ModelSettings) -> UniPortrait:
    """A float32 adapter for stage I on the CPU: identity keys and values copied from the text's, LoRA without effect.

    LoRA down is N(0, 1/r) with standard deviation 1/r, as diffusers initialises it, and up is zero; the resampler has
    torch's defaults. unet is diffusers' UNet2DConditionModel of SD 1.5's architecture.
    """
    sizes = settings.sizes
    attentions = {layer.number: unet.get_submodule(layer.diffusers) for layer in SD15_LAYERS}
    resampler = ResamplerSizes(
        intrinsic_dim=features.embedding if settings.intrinsic == "global" else features.intrinsic,
        structure_dim=features.structure,
        dim=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        dim_head=sizes.head_width,
        num_tokens=sizes.tokens,
        output_dim=unet.config.cross_attention_dim,
        ff_mult=sizes.feed_forward,
    )
    hidden = tuple(attentions[layer.number].to_q.out_features for layer in SD15_LAYERS)
    adapter = _seeded(UniPortraitSizes(hidden, resampler, sizes.rank), seed)
    with torch.no_grad():
        for number, projection in adapter.projections.items():
            projection.to_k.weight.copy_(attentions[int(number)].to_k.weight)
            projection.to_v.weight.copy_(attentions[int(number)].to_v.weight)
    _fill_lora(adapter.lora_single, sizes.rank, seed)
    return adapter


def with_router(adapter: UniPortrait, seed: int) -> UniPortrait:
    """Stage I's adapter with what stage II trains: new routers, and a multi LoRA set that begins as the single one."""
    sizes = replace(adapter.sizes, multi_rank=adapter.sizes.rank)
    extended = _seeded(sizes, seed)
    state = adapter.state_dict()
    state.update({key.replace("lora_single", "lora_multi"): v for key, v in state.items() if "lora_single" in key})
    unknown = extended.load_state_dict(state, strict=False).unexpected_keys
    assert not unknown, unknown
    return extended


def load_adapter(faceid: str | Path, router: str | Path | None = None) -> UniPortrait:
    """Read files in the released layout as float32, strictly. Raises ValueError (CheckpointError)."""
    return load_uniportrait(faceid, router).float()


def _seeded(sizes: UniPortraitSizes, seed: int) -> UniPortrait:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UniPortrait(sizes)


def _fill_lora(loras: nn.Module, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in loras.named_parameters():
            if ".down." in name:
                weight.normal_(std=1.0 / rank, generator=generator)
            else:
                weight.zero_()
