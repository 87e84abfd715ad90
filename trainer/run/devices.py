"""Accelerate's set-up, and how the global batch is shared out among processes and passes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from ..config import TrainingConfig
from .errors import TrainingError

logger = logging.getLogger("likeness.trainer")

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True)
class BatchPlan:
    """global_size pictures a step = per_device at once x processes x accumulation passes."""

    global_size: int
    per_device: int
    processes: int
    accumulation: int

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        passes = f"{self.accumulation} pass{'es' if self.accumulation > 1 else ''}"
        return f"{self.global_size} pictures a step = {self.per_device} at once x {processes} x {passes}"


def plan_batch(config: TrainingConfig, processes: int) -> BatchPlan:
    """Check the batch settings against the number of processes. Raises TrainingError."""
    batch = config.batch
    at_once = batch.per_device * processes
    wanted = (
        f"batch.global_size ({batch.global_size}) must be batch.per_device ({batch.per_device}) x {processes} "
        "processes x batch.accumulation"
    )
    if batch.accumulation is None and batch.global_size % at_once:
        fits = [n for n in range(1, batch.global_size + 1) if batch.global_size % (n * processes) == 0]
        near = [n for n in fits if n <= batch.per_device] or fits
        hint = f"batch.per_device={near[-1]} fits" if near else f"take a multiple of {processes} as batch.global_size"
        raise TrainingError(f"{wanted}, and {batch.global_size} is no multiple of {at_once}; {hint}.")
    accumulation = batch.accumulation or batch.global_size // at_once
    if at_once * accumulation != batch.global_size:
        raise TrainingError(
            f"{wanted}, but with accumulation {accumulation} that is {at_once * accumulation}; leave out "
            "batch.accumulation and it follows from the others."
        )
    return BatchPlan(batch.global_size, batch.per_device, processes, accumulation)


def make_accelerator(config: TrainingConfig) -> tuple[Accelerator, BatchPlan]:
    """The Accelerator for this process, on the device and in the precision that the config asks for.

    Raises TrainingError if they do not go together, or the batch does not divide.
    """
    on_cpu = config.device == "cpu" or not _has_accelerator()
    if on_cpu and config.precision == "fp16":
        raise TrainingError("precision fp16 needs a GPU (its loss scaling does); on the CPU take no or bf16.")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    processes = PartialState(cpu=on_cpu).num_processes
    if launched != processes:
        raise TrainingError(
            f"{launched} processes were started but accelerate sees {processes}: start them with "
            "`accelerate launch --num_processes N -m likeness.trainer train ...`."
        )
    plan = plan_batch(config, processes)
    accelerator = Accelerator(
        mixed_precision=config.precision, cpu=on_cpu, gradient_accumulation_steps=plan.accumulation
    )
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
    return accelerator, plan


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether weights or optimiser state are spread over the processes, so that only accelerate can save them."""
    return accelerator.distributed_type in SHARDED


def quieten(accelerator: Accelerator) -> None:
    """One process speaks for all, and the libraries' own progress bars stay out of ours."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    if not accelerator.is_main_process:
        logger.setLevel(logging.ERROR)


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
