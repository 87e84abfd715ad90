"""A run's state into a checkpoint and back, by all processes together."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config import TrainingConfig, resolved
from ..config_file import dump
from . import state
from .building import save_released
from .checkpoints import Checkpoint, part_folder, prune, write_checkpoint
from .devices import is_sharded
from .errors import DiskFullError, TrainingError
from .randomness import random_state, restore_random_state

SHARDS = "sharded"  # what accelerate saves of FSDP and DeepSpeed
SETTINGS = "config.yaml"


@dataclass(frozen=True)
class Saver:
    """What is saved, and where; made once the model is prepared."""

    folder: Path
    accelerator: Accelerator
    model: nn.Module  # prepared
    optimiser: Optimizer
    config: TrainingConfig
    fingerprints: dict[str, str]

    def save(self, step: int) -> Path:
        """Write the checkpoint of a step that is done; every process calls it. Raises DiskFullError."""
        states = gather_object([random_state()])
        if is_sharded(self.accelerator):
            self.accelerator.save_state(str(part_folder(self.folder, step) / SHARDS))
        weights = self.accelerator.get_state_dict(self.model)  # whole, also where the processes hold shards
        outcome: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            outcome = self._write(step, states, weights)
        outcome = broadcast_object_list(outcome)
        path, fault = outcome
        if fault is not None:
            raise DiskFullError(fault)
        return Path(path)

    def _write(self, step: int, states: list[dict[str, Tensor]], weights: dict[str, Tensor]) -> list[Any]:
        module = self.accelerator.unwrap_model(self.model)

        def files(part: Path) -> None:
            save_released(part, module.adapter.sizes, weights, self.config, step)
            if not is_sharded(self.accelerator):
                state.write_weights(part, module)
                state.write_optimiser(part, module, _plain(self.optimiser))
            state.write_random(part, states)
            state.write_progress(part, self._progress(step))
            (part / SETTINGS).write_text(dump(resolved(self.config)), "utf-8")

        try:
            checkpoint = write_checkpoint(self.folder, step, files)
        except DiskFullError as error:
            return [None, str(error)]
        prune(self.folder, self.config.checkpoints.keep_last, self.config.checkpoints.keep_every)
        return [str(checkpoint.path), None]

    def _progress(self, step: int) -> state.Progress:
        scaler = self.accelerator.scaler
        return state.Progress(
            step=step,
            global_batch=self.config.batch.global_size,
            processes=self.accelerator.num_processes,
            config=resolved(self.config),
            fingerprints=self.fingerprints,
            scaler={name: float(value) for name, value in scaler.state_dict().items()} if scaler else {},
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "accelerate": accelerate.__version__,
            },
        )


def restore(checkpoint: Checkpoint, accelerator: Accelerator, model: nn.Module, optimiser: Optimizer) -> None:
    """Put a prepared model, its optimiser, the loss scale and the generators to where the checkpoint was written.

    Raises TrainingError if the checkpoint holds other weights, or was written by another kind of run.
    """
    shards = checkpoint.path / SHARDS
    if shards.is_dir() != is_sharded(accelerator):
        raise TrainingError(
            f"{checkpoint.path} was {'' if shards.is_dir() else 'not '}written under FSDP or DeepSpeed: "
            "resume with the same accelerate configuration, or start stage II or a new run from its released file."
        )
    if shards.is_dir():
        accelerator.load_state(str(shards))
    else:
        module = accelerator.unwrap_model(model)
        state.read_weights(checkpoint.path, module)
        state.read_optimiser(checkpoint.path, module, _plain(optimiser))
    scaler = state.read_progress(checkpoint.path).scaler
    if accelerator.scaler is not None and scaler:
        whole = {
            name: int(value) if name in ("growth_interval", "_growth_tracker") else value
            for name, value in scaler.items()
        }
        accelerator.scaler.load_state_dict(whole)
    states = state.read_random(checkpoint.path, accelerator.process_index)
    if states:
        restore_random_state(states)


def _plain(optimiser: Optimizer) -> Optimizer:
    """The optimiser below accelerate's wrapper."""
    return getattr(optimiser, "optimizer", optimiser)
