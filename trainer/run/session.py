"""A run from its settings to its last checkpoint."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from ..config import TrainingConfig, completed, resolved
from ..config_file import dump
from .building import Parts, build_module, build_optimiser, check_files, fingerprints_of, open_batches
from .changes import changes, check_changes
from .checkpoints import Checkpoint, folder_name
from .devices import BatchPlan, make_accelerator, quieten
from .errors import DiskFullError
from .folder import CHECKPOINTS, find_start, locked
from .logs import RunLog
from .loop import NotFiniteError, StepReport, TrainingLoop
from .memory import memory_advice
from .randomness import seed_everything
from .samples import SampleGrid
from .saving import SETTINGS, Saver, restore
from .state import read_progress
from .stopping import StopWish, interrupts_ignored, watched_signals

logger = logging.getLogger("likeness.trainer")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: after so many steps; `stopped` if a signal ended it before its time."""

    step: int
    stopped: bool


def train(config: TrainingConfig, resume: str = "auto", accept_changes: bool = False) -> Outcome:
    """Train until the last step or a signal; the state is saved either way.

    resume: "auto" goes on from the newest whole checkpoint if there is one, "none" starts afresh, a path names a
    checkpoint. Raises ValueError with a message for the user if the run cannot start or go on; the last good state is
    on disk then.
    """
    check_files(config)
    with ExitStack() as stack:
        accelerator, plan = make_accelerator(config)
        stack.callback(AcceleratorState._reset_state)  # a second run in this process may have another precision
        quieten(accelerator)
        if accelerator.is_main_process:
            stack.enter_context(locked(config.output))
        stack.enter_context(memory_advice(config, plan))
        start = _agree_on_start(config, accelerator, resume)
        seed_everything(config.seed)
        session = Session(config, accelerator, plan, start, accept_changes)
        stack.callback(session.close)
        return session.run()


class Session:
    """What one process of a run holds."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        plan: BatchPlan,
        start: Checkpoint | None,
        accept_changes: bool,
    ) -> None:
        self.config, self.accelerator, self.plan = config, accelerator, plan
        self.first = start.step if start else 0
        batches = open_batches(config, accelerator, plan, self.first)
        prints = fingerprints_of(config, batches.loader.pictures)
        if start is not None:
            before = read_progress(start.path)
            found = changes(completed(before.config), resolved(config), before.fingerprints, prints, self.first)
            check_changes(found, accept_changes)
        self.parts = Parts(batches, build_module(config, batches, accelerator.device))
        optimiser = build_optimiser(config, self.parts.module, accelerator.device)
        self.model, self.optimiser = accelerator.prepare(self.parts.module, optimiser)
        if start is not None:
            restore(start, accelerator, self.model, self.optimiser)
            logger.info("going on from %s: %d of %d steps are done", start.path, self.first, config.steps)
        self.saver = Saver(config.output / CHECKPOINTS, accelerator, self.model, self.optimiser, config, prints)
        self.log = self._open_log()
        self.saved = self.first if start else -1

    def run(self) -> Outcome:
        """Make the steps that are left."""
        config = self.config
        with interrupts_ignored():
            batches = self.parts.steps()
        loop = TrainingLoop(config, self.accelerator, self.plan, self.model, self.optimiser, batches)
        grid = SampleGrid(config, self.accelerator, self.parts, self.log)
        logger.info("%s; %s", self.parts.summary(), self.plan)
        with watched_signals() as wish:
            for step in range(self.first, config.steps):
                report = self._step(loop, step, wish)
                done = step + 1 if report else step
                stop = report is None or report.stop
                if self.log is not None and report is not None:
                    self.log.step(done, report.values, self.plan.global_size)
                if stop or done == config.steps or done % config.checkpoints.every == 0:
                    self._save(done, last=stop or done == config.steps)
                if stop and done < config.steps:
                    self._say_how_to_go_on(done)
                    return Outcome(done, stopped=True)
                if config.samples.every and done % config.samples.every == 0:
                    grid.draw(done)
        logger.info("done: %d steps; the files for the nodes are in %s", config.steps, self.saver.folder)
        return Outcome(config.steps, stopped=False)

    def _step(self, loop: TrainingLoop, step: int, wish: StopWish) -> StepReport | None:
        """Make a step; None if it could not be finished because the signal that ends the run took the readers along."""
        try:
            return loop.step(step, wish)
        except NotFiniteError as error:
            raise NotFiniteError(f"{error} {self._keep_last_good_state(step)}") from error
        except RuntimeError as error:
            if not wish or "DataLoader worker" not in str(error) or self.plan.processes > 1:
                raise
            return None

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def _open_log(self) -> RunLog | None:
        if not self.accelerator.is_main_process:
            return None
        output, settings = self.config.output, self.config.logging
        (output / SETTINGS).write_text(dump(resolved(self.config)), "utf-8")
        return RunLog(
            output, self.first, self.config.steps, settings.every, settings.tensorboard, settings.progress_bar
        )

    def _save(self, step: int, last: bool = False) -> None:
        """Write a checkpoint unless it is there; a full disk ends the run or not, as the settings say.

        The last one has no successor that could make up for it, so its failure is always an error.
        """
        if step == self.saved:
            return
        try:
            path = self.saver.save(step)
        except DiskFullError as error:
            kept = f"the last whole checkpoint is that of step {self.saved}" if self.saved >= 0 else "there is none yet"
            if last or self.config.checkpoints.when_disk_full == "stop":
                raise DiskFullError(
                    f"{error} {kept.capitalize()}; make room and start the same command again."
                ) from None
            logger.error("%s %s; training goes on, since checkpoints.when_disk_full is continue.", error, kept)
        else:
            self.saved = step
            logger.info("saved %s", path)
        if self.log is not None:
            self.log.restart_clock()

    def _keep_last_good_state(self, step: int) -> str:
        """Save the state before a step that failed: its weights did not change."""
        if step == 0:
            return "No step was made."
        self._save(step, last=True)
        return (
            "The weights did not change in this step; those before it are saved in "
            f"{self.saver.folder / folder_name(step)}. Should they be spoilt already, go on from an earlier checkpoint "
            "with --resume PATH."
        )

    def _say_how_to_go_on(self, step: int) -> None:
        logger.info(
            "stopped after step %d of %d; start the same command again and it goes on from there",
            step,
            self.config.steps,
        )


def _agree_on_start(config: TrainingConfig, accelerator: Accelerator, resume: str) -> Checkpoint | None:
    """Let the main process look for the checkpoint, so that all take the same; its faults become everybody's."""
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = find_start(config.output, resume)
        except ValueError as error:
            found[1] = error
    found = broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]
