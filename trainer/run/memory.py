"""Out of memory, in words: which settings to lower, with what they are now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..config import TrainingConfig
from .devices import BatchPlan
from .errors import TrainingError

_CPU_WORDS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the computer's memory is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _CPU_WORDS)


def peak_memory(device: torch.device) -> int:
    """Most bytes that tensors took on the device so far; on the CPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_advice(config: TrainingConfig, plan: BatchPlan) -> Iterator[None]:
    """Turn an error for want of memory into a TrainingError that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(advice(config, plan, str(error))) from error


def advice(config: TrainingConfig, plan: BatchPlan, reason: str) -> str:
    """Which settings lower the memory that a step takes, most effective first, with their values."""
    ways = []
    if plan.per_device > 1:
        ways.append(
            f"batch.per_device: {plan.per_device} -> {max(plan.per_device // 2, 1)} "
            "(the global batch stays the same, in more passes)"
        )
    if not config.model.gradient_checkpointing:
        ways.append("model.gradient_checkpointing: false -> true (about a third slower)")
    if config.precision == "no":
        ways.append("precision: no -> bf16")
    ways.append(
        f"data.resolution: {config.data.resolution}; cached latents and face features "
        "(`python -m likeness.trainer cache`) spare the memory of three networks"
    )
    if config.data.workers > 2:
        ways.append(f"data.workers: {config.data.workers} -> 2 (the computer's memory, not the GPU's)")
    first = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return (
        "out of memory (" + first + "). Lower one of these and start again:\n" + "\n".join(f"- {way}" for way in ways)
    )
