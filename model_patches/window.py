"""The part of a sampling run in which a patch works."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

# Schedulers take steps from tables of 1000 (UNets) or 10000 entries and round down, so that step k of n can be noisier
# than the schedule is at k / n, by less than this part of the schedule.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Window:
    """Half-open range of sigmas, `end_sigma < sigma <= start_sigma`: windows that meet never share a step."""

    start_sigma: float
    end_sigma: float
    whole_run: bool

    @classmethod
    def from_percent(cls, model: ModelPatcher, start: float, end: float) -> Window:
        """Translate percentages of the schedule (0 = first step, 1 = last) by the model's own noise schedule.

        A step that falls on a boundary, up to rounding, belongs to the window that starts there. A window from 0 on
        holds every step before its end, whatever noise a schedule begins with.

        Raises:
            ValueError: a percentage outside 0 to 1, or a start behind the end.
        """
        if not (0.0 <= start <= 1.0 and 0.0 <= end <= 1.0):
            raise ValueError(f"start_percent and end_percent lie between 0 and 1; got {start} and {end}.")
        if start > end:
            raise ValueError(f"start_percent ({start}) is behind end_percent ({end}): swap them.")
        sampling = model.get_model_object("model_sampling")

        def boundary(percent: float) -> float:
            if percent <= 0.0:
                return math.inf
            return float(sampling.percent_to_sigma(percent if percent >= 1.0 else max(percent - ROUNDING, 0.0)))

        return cls(
            start_sigma=boundary(start),
            end_sigma=boundary(end),
            whole_run=start <= 0.0 and end >= 1.0,
        )

    @property
    def empty(self) -> bool:
        """True if no step can fall into the window."""
        return self.start_sigma <= self.end_sigma

    def contains(self, sigma: float) -> bool:
        """True if a step at this noise level lies inside."""
        return self.end_sigma < sigma <= self.start_sigma

    def overlaps(self, other: Window) -> bool:
        """True if some noise level lies in both windows."""
        return self.end_sigma < other.start_sigma and other.end_sigma < self.start_sigma
