"""The folder of a run: where its files are, and which checkpoint it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .checkpoints import Checkpoint, clear_parts, list_checkpoints, newest_whole, set_aside
from .errors import TrainingError
from .state import read_progress

logger = logging.getLogger("likeness.trainer")

CHECKPOINTS, SAMPLES, LOCK = "checkpoints", "samples", ".lock"
RESUME_WAYS = ("auto", "none")  # anything else is the path of a checkpoint


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep a second process from writing the same run; the lock goes with the process, however it ends.

    Raises TrainingError if another one holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(output / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"another process is training in {output}; stop it or choose another output.") from None
        yield


def find_start(output: Path, resume: str) -> Checkpoint | None:
    """The checkpoint to go on from, None for a run from the start; later ones that would be in the way are set aside.

    Raises TrainingError if there is none where one is asked for, if it is damaged, or if a new run would mix with an
    old one.
    """
    folder = output / CHECKPOINTS
    clear_parts(folder)
    if resume == "auto":
        return newest_whole(folder)
    if resume == "none":
        old = list_checkpoints(folder)
        if old:
            raise TrainingError(
                f"{output} holds a run of {old[0].step} steps, which --resume none would overwrite: "
                "choose another output or move the folder away."
            )
        return None
    chosen = open_checkpoint(Path(resume))
    for later in list_checkpoints(folder):
        if later.step > chosen.step:
            set_aside(later, "later")
    return chosen


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint folder named by the user. Raises TrainingError if it is none or damaged."""
    if not path.is_dir():
        raise TrainingError(f"--resume {path}: there is no such folder; name a checkpoint (step-...), auto or none.")
    fault = Checkpoint(path, 0).fault()
    if fault:
        raise TrainingError(f"--resume {path}: {fault}; choose another checkpoint, or --resume auto.")
    return Checkpoint(path.resolve(), read_progress(path).step)


def find_stage_one(path: Path, name: str) -> Path:
    """The faceid file that a run builds on: `path` itself, or in a checkpoint, or in a run's newest whole one.

    Raises TrainingError if there is none.
    """
    if path.is_file():
        return path
    if (path / name).is_file():
        return path / name
    for checkpoint in list_checkpoints(path / CHECKPOINTS):
        fault = checkpoint.fault()
        if not fault and (checkpoint.path / name).is_file():
            logger.info("starting from %s", checkpoint.path / name)
            return checkpoint.path / name
        logger.warning("not started from: %s (%s)", checkpoint.path, fault or f"no {name}")
    raise TrainingError(
        f"base.stage_one is {path}: it should be stage I's {name}, or a checkpoint or run folder that holds one."
    )
