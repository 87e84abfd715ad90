"""A UNet step with identities over the bare step, at full SD 1.5 width, beside a plain implementation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ..model_patches.uniportrait import UniPortraitSettings, apply_uniportrait
from . import full_size
from .plain_uniportrait import apply_plainly

CALLS = 2  # timed calls of one measurement; a call before them prepares what a run computes once


@dataclass
class Variant:
    """One row of the table."""

    name: str
    people: int
    model: ModelPatcher
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    peak: int = 0


def print_table(size: int, batch: int, rounds: int, counts: Sequence[int]) -> None:
    """Measure all variants in turn, `rounds` times, and print medians of each round's ratio to its own bare step."""
    device = comfy.model_management.get_torch_device()
    with torch.inference_mode():
        bare, models = full_size.sd15(), full_size.uniportrait()
        variants = [Variant("bare", 0, bare)]
        for count in counts:
            identities = full_size.people(models, count)
            ours, _ = apply_uniportrait(bare, models, identities, UniPortraitSettings())
            variants.append(Variant("likeness", count, ours))
            variants.append(Variant("plain", count, apply_plainly(bare, models, identities, 0.7)))
        print(
            f"SD 1.5, random weights, {device}, {full_size.step_dtype()}, {torch.get_num_threads()} threads, latent "
            f"{size}x{size}, {batch} x 2 rows, {rounds} rounds of {CALLS} calls"
        )
        for _ in range(rounds):
            for variant in variants:
                _measure(variant, size, batch, device)
    _print_rows(variants, device)


def _measure(variant: Variant, size: int, batch: int, device: torch.device) -> None:
    guider = comfy.samplers.CFGGuider(variant.model)
    guider.set_conds([[torch.randn(1, 77, 768), {}]], [[torch.randn(1, 77, 768), {}]])
    guider.set_cfg(7.5)
    times: list[float] = []

    def sample(
        model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], **__: Any
    ) -> torch.Tensor:
        conditionings = [guider.conds["positive"], guider.conds["negative"]]
        arguments = (guider.inner_model, conditionings, x, sigmas[:1], extra_args["model_options"])
        for _ in range(1 + CALLS):
            times.append(_timed(lambda: comfy.samplers.calc_cond_batch(*arguments), device))
        return x

    noise = torch.randn(batch, 4, size, size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sigmas = torch.tensor([3.0, 0.0])
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(sample), sigmas, disable_pbar=True, seed=1)
    variant.first.append(times[0])
    variant.seconds.append(min(times[1:]))
    if device.type == "cuda":
        variant.peak = max(variant.peak, torch.cuda.max_memory_allocated())


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    call()
    return now() - start


def _print_rows(variants: Sequence[Variant], device: torch.device) -> None:
    bare = variants[0]
    print(f"{'':10}{'people':>7}{'s/step':>9}{'ratio':>8}{'lowest':>8}{'highest':>9}{'first call':>12}{'peak':>10}")
    for variant in variants:
        ratios = [own / base for own, base in zip(variant.seconds, bare.seconds, strict=True)]
        peak = f"{variant.peak / 2**20:.0f} MiB" if device.type == "cuda" else "-"
        print(
            f"{variant.name:10}{variant.people:>7}{statistics.median(variant.seconds):>9.3f}"
            f"{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>9.3f}"
            f"{statistics.median(variant.first):>12.3f}{peak:>10}"
        )
