"""The learning rate as a function of the step, so that a resumed run needs no memory of it."""

from __future__ import annotations

from torch.optim import Optimizer

from ..config import TrainingConfig


def rate_share(step: int, steps: int, warmup_steps: int, decay_steps: int) -> float:
    """Share of the full learning rate in the step of that number, counted from 0, of `steps`.

    It rises linearly to 1, stays, and falls linearly in the last `decay_steps`, to be 0 in the step after the last.
    """
    risen = (step + 1) / warmup_steps if warmup_steps else 1.0
    left = (steps - step) / (decay_steps + 1)
    return min(1.0, risen, left)


def set_learning_rate(optimiser: Optimizer, step: int, config: TrainingConfig) -> float:
    """Set every group's rate for this step and return the first group's; `full_rate` of a group is its own maximum."""
    share = rate_share(step, config.steps, config.optimiser.warmup_steps, config.optimiser.decay_steps)
    for group in optimiser.param_groups:
        group["lr"] = group["full_rate"] * share
    return optimiser.param_groups[0]["lr"]
