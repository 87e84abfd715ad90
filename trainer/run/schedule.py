"""The learning rate as a function of the step, so that a resumed run needs no memory of it."""

from __future__ import annotations

from torch.optim import Optimizer


def warm_up(step: int, warmup_steps: int) -> float:
    """Share of the full learning rate in the step of that number, counted from 0: rises linearly, then stays 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def set_learning_rate(optimiser: Optimizer, step: int, warmup_steps: int) -> float:
    """Set every group's rate for this step and return the first group's; `full_rate` of a group is its own maximum."""
    share = warm_up(step, warmup_steps)
    for group in optimiser.param_groups:
        group["lr"] = group["full_rate"] * share
    return optimiser.param_groups[0]["lr"]
