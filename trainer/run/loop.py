"""One optimiser step after the other: passes, gradients, checks that everything is finite, and what was measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from ..batch import Batch
from ..config import TrainingConfig
from ..model.draws import Draws
from ..model.uniportrait import StepLosses
from .devices import BatchPlan
from .errors import TrainingError
from .memory import peak_memory
from .schedule import set_learning_rate
from .stopping import StopWish


class NotFiniteError(TrainingError):
    """A loss or gradient that is no number. The weights are those after the last good step."""


@dataclass(frozen=True)
class StepReport:
    """What a step measured, the mean over all processes; `stop` if any process was asked to end."""

    values: dict[str, float]
    stop: bool


class TrainingLoop:
    """Makes optimiser steps; the same on every process."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        plan: BatchPlan,
        model: nn.Module,
        optimiser: Optimizer,
        batches: Iterator[tuple[Batch, Draws]],
    ) -> None:
        self.config, self.accelerator, self.plan = config, accelerator, plan
        self.model, self.optimiser, self.batches = model, optimiser, batches
        self.skipped_in_a_row = 0
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(self, step: int, wish: StopWish) -> StepReport:
        """Do the step of that number, counted from 0.

        Raises NotFiniteError before the weights change if a loss or gradient is no finite number.
        """
        start = time.perf_counter()
        rate = set_learning_rate(self.optimiser, step, self.config)
        done: list[tuple[Batch, StepLosses]] = []
        for _ in range(self.plan.accumulation):
            with self.accelerator.accumulate(self.model):
                self._backward(done)
                if self.accelerator.sync_gradients:
                    measured, stop = self._measure(done, self._clip(), wish)
                    self._check_losses(step, measured, done)
                    self._check_gradient(step, measured["gradient_norm"])
                self.optimiser.step()
                self.optimiser.zero_grad()
        self._count_skipped(step)
        memory = peak_memory(self.accelerator.device) / 2**20
        measured |= {"learning_rate": rate, "seconds": time.perf_counter() - start, "peak_memory_mib": memory}
        return StepReport(measured, stop)

    def _backward(self, done: list[tuple[Batch, StepLosses]]) -> None:
        batch, draws = next(self.batches)
        losses = self.model(batch, draws)
        self.accelerator.backward(losses.total)
        done.append((batch, StepLosses(*(tensor.detach() for tensor in losses))))

    def _clip(self) -> Tensor:
        longest = self.config.optimiser.clip
        norm = self.accelerator.clip_grad_norm_(self._parameters, math.inf if longest is None else longest)
        return torch.as_tensor(0.0 if norm is None else norm)

    def _measure(
        self, done: list[tuple[Batch, StepLosses]], norm: Tensor, wish: StopWish
    ) -> tuple[dict[str, float], bool]:
        """Mean losses over passes and processes, with one copy from the device for everything that is decided here."""
        names = ("loss", "diffusion", "routing")
        # float64, so that the mean over passes adds no rounding; Apple's GPUs have none.
        kind = torch.float32 if self.accelerator.device.type == "mps" else torch.float64
        parts = [torch.stack([losses.total, losses.diffusion.mean(), losses.routing.mean()]) for _, losses in done]
        means_here = torch.stack(parts).to(kind).mean(0)
        asked = means_here.new_tensor([float(bool(wish))])
        vector = torch.cat([means_here, norm.to(means_here).reshape(1), asked])
        *means, gradient, stop = self.accelerator.reduce(vector, "mean").tolist()
        return {**dict(zip(names, means, strict=True)), "gradient_norm": gradient}, stop > 0

    def _check_losses(self, step: int, measured: dict[str, float], done: list[tuple[Batch, StepLosses]]) -> None:
        if math.isfinite(measured["loss"]):
            return
        own = [name for batch, losses in done for name in _samples_not_finite(batch, losses)]
        names = gather_object(own)
        raise NotFiniteError(
            f"the loss of step {step + 1} is {measured['loss']}. "
            + (f"It comes from {'; '.join(names)}. " if names else "No single sample is to blame. ")
            + "Look at these pictures and their caches; if they are in order, lower optimiser.learning_rate"
            + (" or take precision bf16 instead of fp16." if self.config.precision == "fp16" else ".")
        )

    def _check_gradient(self, step: int, norm: float) -> None:
        if math.isfinite(norm) or self.config.precision == "fp16":  # there the scaler skips the step
            return
        raise NotFiniteError(
            f"the gradient of step {step + 1} is {norm} although its loss is a number: "
            "lower optimiser.learning_rate, or set precision: no to see whether half precision is the reason."
        )

    def _count_skipped(self, step: int) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if self.accelerator.optimizer_step_was_skipped else 0
        if self.skipped_in_a_row >= self.config.max_skipped_steps:
            raise NotFiniteError(
                f"fp16 overflowed in {self.skipped_in_a_row} steps in a row, the last one {step + 1}: "
                "take precision bf16, or lower optimiser.learning_rate."
            )


def _samples_not_finite(batch: Batch, losses: StepLosses) -> list[str]:
    bad = (~torch.isfinite(losses.diffusion + losses.routing)).tolist()
    steps = losses.timesteps.tolist()
    return [f"sample {key} at timestep {t}" for key, t, is_bad in zip(batch.keys, steps, bad, strict=True) if is_bad]
