"""One step of a network with identities over the bare step, in turn within one sampling run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

_HEADS = ("people", "bare s", "s/step", "ratio", "lower", "upper", "best", "first call", "peak")


@dataclass(frozen=True)
class Workload:
    """What is sampled: latents (batch, channels, height, width) and prompts."""

    latent: tuple[int, int, int, int]
    positive: list[Any]  # ComfyUI CONDITIONING, of random numbers
    negative: list[Any]
    guided: bool  # whether the negative prompt is computed too
    sigma: float


@dataclass(frozen=True)
class Timing:
    """How often each is measured, and by what.

    Attributes:
        rounds: calls of each, in turn with bare ones.
        processor: count the processor time of this process and not the clock: on a machine that has other work the
            clock says little. With several threads it counts their sum, so use one.
    """

    rounds: int
    processor: bool = False

    def __str__(self) -> str:
        return f"{self.rounds} rounds{' in processor time' if self.processor else ''}"

    def seconds(self, call: Callable[[], Any], device: torch.device) -> float:
        """How long a call takes, with all that it leaves to an accelerator."""
        read = time.process_time if self.processor else time.perf_counter

        def now() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize()
            return read()

        start = now()
        call()
        return now() - start


@dataclass
class Variant:
    """One row of a table: seconds of its own calls, and of the bare calls between them.

    Prompts of its own, if it has some, do not count for the bare calls.
    """

    name: str
    people: int
    model: ModelPatcher
    positive: list[Any] | None = None
    negative: list[Any] | None = None
    own: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    first: float = 0.0
    peak: int = 0


def print_steps(name: str, bare: ModelPatcher, variants: Sequence[Variant], workload: Workload, timing: Timing) -> None:
    """Measure each variant in a sampling run of its own, in turn with the bare network, and print it.

    Ratios are of neighbouring calls: their median, lower and upper quarter, and the best own over the best bare call.
    """
    device = comfy.model_management.get_torch_device()
    batch, _, height, width = workload.latent
    rows = f"{batch} x 2 rows" if workload.guided else f"{batch} rows"
    print(
        f"{name}, random weights, {device}, {bare.model.get_dtype_inference()}, {torch.get_num_threads()} threads, "
        f"latent {height}x{width}, {rows}, {timing}; ratios are of neighbouring calls"
    )
    width = 2 + max(len(variant.name) for variant in variants)
    print(f"{'':{width}}" + "".join(f"{head:>11}" for head in _HEADS), flush=True)
    for variant in variants:
        _measure(variant, workload, timing, device)
        _print_row(variant, width, device)


def _measure(variant: Variant, workload: Workload, timing: Timing, device: torch.device) -> None:
    guider = comfy.samplers.CFGGuider(variant.model)
    own = {"positive": variant.positive or workload.positive, "negative": variant.negative or workload.negative}
    bare = {"bare positive": workload.positive, "bare negative": workload.negative}
    guider.inner_set_conds({**own, **bare})
    guider.set_cfg(7.5 if workload.guided else 1.0)

    def sample(
        model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], **__: Any
    ) -> torch.Tensor:
        def call(prompts: Iterable[str], options: dict[str, Any]) -> float:
            conditionings = [guider.conds[prompt] for prompt in prompts][: 1 + workload.guided]
            arguments = (guider.inner_model, conditionings, x, sigmas[:1], options)
            return timing.seconds(lambda: comfy.samplers.calc_cond_batch(*arguments), device)

        variant.first = call(own, extra_args["model_options"])  # prepares what a run computes once
        for _ in range(timing.rounds):
            variant.own.append(call(own, extra_args["model_options"]))
            variant.bare.append(call(bare, {"transformer_options": {}}))  # the same network without any patch
        return x

    noise = torch.randn(workload.latent)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sigmas = torch.tensor([workload.sigma, 0.0])
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(sample), sigmas, disable_pbar=True, seed=1)
    if device.type == "cuda":
        variant.peak = torch.cuda.max_memory_allocated()


def _print_row(variant: Variant, width: int, device: torch.device) -> None:
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
        f"{variant.name:{width}}{variant.people:>11}" + "".join(f"{n:>11.3f}" for n in numbers) + f"{peak:>11}",
        flush=True,
    )
