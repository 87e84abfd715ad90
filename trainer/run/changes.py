"""Which settings may differ when a run goes on, and which would make it another run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config_file import flatten
from .errors import TrainingError

logger = logging.getLogger("likeness.trainer")

# What changes no number of the loss series, or only its last bits (how a batch is shared out).
HARMLESS = (
    "output",
    "device",
    "checkpoints",
    "logging",
    "samples",
    "batch.per_device",
    "batch.accumulation",
    "data.workers",
    "data.prefetch",
    "model.gradient_checkpointing",
)
STEPS = "steps"


@dataclass(frozen=True)
class Change:
    """One setting that differs from the checkpoint's."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} in the checkpoint, {self.now!r} now"


def changes(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    known: Mapping[str, str],
    prints: Mapping[str, str],
    done: int = 0,
) -> list[Change]:
    """What differs and changes the maths, after so many steps.

    A path does not if its content (known, prints: key -> digest) is the same.
    """
    old, new = flatten(before), flatten(now)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    found = [
        Change(key, old.get(key), new.get(key))
        for key in differing
        if not _is_harmless(key)
        and not (key == STEPS and _before_decay(old, new, done))
        and not (key in known and known[key] == prints.get(key))
    ]
    replaced = [key for key in known if key in prints and known[key] != prints[key] and key not in differing]
    return found + [Change(key, "another content of " + str(old.get(key)), new.get(key)) for key in replaced]


def check_changes(found: list[Change], accept: bool) -> None:
    """Refuse to go on with other maths unless it is accepted. Raises TrainingError with the list."""
    if not found:
        return
    lines = "\n".join(f"- {change}" for change in found)
    if not accept:
        raise TrainingError(
            f"the settings are not those of the checkpoint, and the run would become another one:\n{lines}\n"
            "Put them back, start a new run in another output folder, or go on with the new ones by --accept-changes."
        )
    logger.warning("going on with changed settings:\n%s", lines)


def _before_decay(old: Mapping[str, Any], new: Mapping[str, Any], done: int) -> bool:
    """Whether another number of steps changes no learning rate of the steps that are done."""
    decay = new["optimiser.decay_steps"]
    return not decay or done <= min(old[STEPS], new[STEPS]) - decay


def _is_harmless(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
