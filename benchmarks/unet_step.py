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


@dataclass
class Variant:
    """One row of the table: seconds of its own calls, and of the bare calls between them."""

    name: str
    people: int
    model: ModelPatcher
    own: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    first: float = 0.0
    peak: int = 0


def print_table(size: int, batch: int, rounds: int, counts: Sequence[int]) -> None:
    """Measure each variant in a sampling run of its own, `rounds` times in turn with the bare network."""
    device = comfy.model_management.get_torch_device()
    print(
        f"SD 1.5, random weights, {device}, {full_size.step_dtype()}, {torch.get_num_threads()} threads, latent "
        f"{size}x{size}, {batch} x 2 rows, {rounds} rounds; ratios are of neighbouring calls"
    )
    heads = ("people", "bare s", "s/step", "ratio", "lower", "upper", "best", "first call", "peak")
    print(f"{'':10}" + "".join(f"{head:>11}" for head in heads), flush=True)
    with torch.inference_mode():
        bare, models = full_size.sd15(), full_size.uniportrait()
        for count in counts:
            identities = full_size.people(models, count)
            ours, _ = apply_uniportrait(bare, models, identities, UniPortraitSettings())
            plain = apply_plainly(bare, models, identities, 0.7)
            for variant in (Variant("likeness", count, ours), Variant("plain", count, plain)):
                _measure(variant, size, batch, rounds, device)
                _print_row(variant, device)


def _measure(variant: Variant, size: int, batch: int, rounds: int, device: torch.device) -> None:
    guider = comfy.samplers.CFGGuider(variant.model)
    guider.set_conds([[torch.randn(1, 77, 768), {}]], [[torch.randn(1, 77, 768), {}]])
    guider.set_cfg(7.5)

    def sample(
        model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], **__: Any
    ) -> torch.Tensor:
        conditionings = [guider.conds["positive"], guider.conds["negative"]]

        def call(options: dict[str, Any]) -> float:
            arguments = (guider.inner_model, conditionings, x, sigmas[:1], options)
            return _timed(lambda: comfy.samplers.calc_cond_batch(*arguments), device)

        variant.first = call(extra_args["model_options"])  # prepares what a run computes once
        for _ in range(rounds):
            variant.own.append(call(extra_args["model_options"]))
            variant.bare.append(call({"transformer_options": {}}))  # the same network without any patch
        return x

    noise = torch.randn(batch, 4, size, size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sigmas = torch.tensor([3.0, 0.0])
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(sample), sigmas, disable_pbar=True, seed=1)
    if device.type == "cuda":
        variant.peak = torch.cuda.max_memory_allocated()


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    call()
    return now() - start


def _print_row(variant: Variant, device: torch.device) -> None:
    ratios = sorted(own / bare for own, bare in zip(variant.own, variant.bare, strict=True))
    quarter = len(ratios) // 4
    peak = f"{variant.peak / 2**20:.0f} MiB" if device.type == "cuda" else "-"
    numbers = (
        statistics.median(variant.bare),
        statistics.median(variant.own),
        statistics.median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
        min(variant.own) / min(variant.bare),
        variant.first,
    )
    print(
        f"{variant.name:10}{variant.people:>11}" + "".join(f"{n:>11.3f}" for n in numbers) + f"{peak:>11}", flush=True
    )
