"""`--dry-run`: the settings, what is trained on what, and how much memory, disk and time it will take."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from ..batch import Batch
from ..config import TrainingConfig, resolved
from ..config_file import dump
from ..data.batches import TrainingBatches
from .building import Parts, build_module, check_files, open_batches, trained_counts
from .devices import BatchPlan, make_accelerator, quieten
from .memory import memory_advice

MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """Passes forward and back that were really made."""

    batch_size: int
    seconds: float  # of one pass, after a first one
    activations: int | None  # bytes kept for the way back; None where only the device's peak is known
    peak: int | None  # bytes, CUDA


def show_estimate(config: TrainingConfig) -> None:
    """Write everything to standard output. Raises ValueError for whatever would stop the run."""
    _say(dump(resolved(config)))
    check_files(config)
    with ExitStack() as stack:
        accelerator, plan = make_accelerator(config)
        stack.callback(AcceleratorState._reset_state)
        quieten(accelerator)
        stack.enter_context(memory_advice(config, plan))
        batches = open_batches(config, accelerator, plan, 0)
        parts = Parts(batches, build_module(config, batches, accelerator.device))
        for line in (*_contents(config, plan, parts), *_estimates(config, accelerator, plan, parts)):
            _say(line)


def _contents(config: TrainingConfig, plan: BatchPlan, parts: Parts) -> Iterator[str]:
    batches = parts.batches
    yield f"pictures: {batches.num_pictures} of {len(parts.pictures)} in the set, {plan}"
    epochs = config.steps / batches.steps_per_epoch
    yield f"steps: {config.steps}, {batches.steps_per_epoch} to go through the pictures once: {epochs:.1f} times in all"
    for name, kind, cached in (
        ("latents", "latents", batches.loader.gives_latents),
        ("features", "face features", batches.loader.gives_features),
    ):
        yield f"{kind}: " + (
            "from the cache" if cached else f"computed in every step; data.use_cached_{name} and `cache` spare that"
        )
    for name, count in trained_counts(parts.module).items():
        yield f"trained: {name:<12} {count:>14,} parameters"


def _estimates(config: TrainingConfig, accelerator: Accelerator, plan: BatchPlan, parts: Parts) -> Iterator[str]:
    trained = sum(trained_counts(parts.module).values())
    frozen = sum(_bytes(tensor) for tensor in _frozen_tensors(parts))
    measured = _measure(config, accelerator, plan, parts)
    yield f"memory: frozen weights {_mib(frozen)}"
    yield f"memory: trained weights {_mib(4 * trained)}, gradients {_mib(4 * trained)}, AdamW {_mib(8 * trained)}"
    fixed = frozen + 16 * trained
    if measured.peak is not None:
        # The passes were made without an optimiser, whose two moments come on top.
        yield (
            f"memory: {_mib(measured.peak + 8 * trained)} at the peak: measured by a pass of {measured.batch_size} "
            f"pictures on {torch.cuda.get_device_name()}, AdamW's moments added"
        )
    elif measured.activations is not None:
        each = measured.activations / measured.batch_size
        total = fixed + each * plan.per_device
        yield (
            f"memory: activations {_mib(each * plan.per_device)}: what a real pass of one picture kept for the way "
            f"back, times batch.per_device ({plan.per_device}); a GPU also needs working space, about a tenth more"
        )
        yield f"memory: {_mib(total)} in all on each device"
    checkpoint = 16 * trained if config.checkpoints.file_dtype == "float32" else 14 * trained
    free = shutil.disk_usage(_existing(config.output)).free
    yield (
        f"disk: {_mib(checkpoint)} for each checkpoint, {config.checkpoints.keep_last} are kept"
        + (f" and one every {config.checkpoints.keep_every} steps" if config.checkpoints.keep_every else "")
        + f"; {_mib(free)} are free"
    )
    step = measured.seconds / measured.batch_size * plan.per_device * plan.accumulation
    yield (
        f"time: {step:.2f} s for a step on {accelerator.device}, {_duration(step * config.steps)} for {config.steps} "
        f"steps: from a timed pass of {measured.batch_size} picture{'s' if measured.batch_size > 1 else ''}, "
        "reading pictures and saving not counted"
    )


def _measure(config: TrainingConfig, accelerator: Accelerator, plan: BatchPlan, parts: Parts) -> Measured:
    """Two passes forward and back: of a whole per-device batch on CUDA, elsewhere of one picture."""
    on_cuda = accelerator.device.type == "cuda"
    size = plan.per_device if on_cuda else 1
    batch = _first_pictures(config, parts, size)
    _pass(accelerator, parts, batch)  # the first one also allocates and chooses algorithms
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    _pass(accelerator, parts, batch)
    if on_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if on_cuda else None
    activations = None if on_cuda else _kept_for_the_way_back(accelerator, parts, batch)
    return Measured(size, seconds, activations, peak)


def _pass(accelerator: Accelerator, parts: Parts, batch: Batch) -> None:
    with accelerator.autocast():
        parts.module(batch).total.backward()
    parts.module.zero_grad(set_to_none=False)


def _kept_for_the_way_back(accelerator: Accelerator, parts: Parts, batch: Batch) -> int:
    """Bytes of all tensors that autograd keeps from a forward pass, weights left out, each memory counted once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*_frozen_tensors(parts), *parts.module.parameters())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # else memory is used again and counted once only

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), accelerator.autocast():
        parts.module(batch)
    return sum(kept.values())


def _first_pictures(config: TrainingConfig, parts: Parts, count: int) -> Batch:
    size = config.batch.global_size
    data = config.data.model_copy(update={"workers": 0})
    batches = TrainingBatches(
        parts.pictures, data, batch_size=count, seed=config.seed, accumulation=max(size // count, 1)
    )
    return next(iter(batches))


def _frozen_tensors(parts: Parts) -> Iterator[Tensor]:
    base, tokens = parts.module.base, parts.module.tokens
    networks = [base.unet, base.text.model]
    networks += [base.vae.vae] if base.vae is not None else []
    networks += [tokens.encoders.backbone, tokens.encoders.tower] if tokens.encoders is not None else []
    for network in networks:
        yield from network.state_dict().values()
    # The adapter's own frozen parts, in stage II all of stage I's.
    yield from (parameter for parameter in parts.module.parameters() if not parameter.requires_grad)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size < 10_000 * MIB else f"{size / MIB / 1024:,.1f} GiB"


def _duration(seconds: float) -> str:
    for length, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _existing(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one of several processes speaks
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
