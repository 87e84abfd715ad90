"""When UniID goes from its weak scales to its strong ones: a step of a run, or a noise level (docs/uniid.md, 7).

A model call counts as "after" where its sigma is at most a threshold; so evaluations inside a step, the prompt's tokens
and every layer agree, whatever the sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .sampling_run import Schedule
from .window import ROUNDING

ALWAYS, NEVER = math.inf, 0.0  # thresholds
# The threshold of a step lies this part of the way, in log sigma, to the step before it: samplers that evaluate inside
# a step do it near the middle of the way, and none evaluates this near to its end but at the end itself.
NEAR = 0.01
TIE = 1e-5  # a step at exactly the given noise level counts as "after", whatever its last digits
LAST_TIMESTEP = 999


@dataclass(frozen=True)
class MergeStep:
    """The step from which the strong scales count: `step` of a run of `of` steps, counted from 0.

    0 or less is from the start, `of` or more is never.

    Raises:
        ValueError: a run of less than one or more than a thousand steps.
    """

    step: int = 5
    of: int = 30

    def __post_init__(self) -> None:
        if not 1 <= self.of <= LAST_TIMESTEP + 1:
            raise ValueError(
                f"the merge step is counted in a run of {self.of} steps; give the number of steps that the sampler is "
                f"set to, 1 to {LAST_TIMESTEP + 1}."
            )

    @property
    def fixed(self) -> float | None:
        """The threshold where it is the same for every run, else None."""
        if self.step <= 0:
            return ALWAYS
        return NEVER if self.step >= self.of else None

    def threshold(self, schedule: Schedule) -> float:
        """The sigma from which on, downwards, the strong scales count in this run.

        A run that makes its picture from noise is counted in steps: the same share of its steps where it has another
        number of them, the number itself where it stops before the noise is gone. Runs that begin later, on a picture
        or another run's latents, do not tell which step is their first, and go by the noise level of the published
        schedule.
        """
        if self.fixed is not None:
            return self.fixed
        sigmas, total = schedule.sigmas, len(schedule.sigmas) - 1
        if total < 1 or not _begins_with_noise(schedule):
            return self._published_threshold(schedule.sampling)
        step = self.step if sigmas[-1] > 0 else round(self.step * total / self.of)
        if step <= 0:
            return ALWAYS
        if step >= total:
            return NEVER
        return sigmas[step] * (sigmas[step - 1] / sigmas[step]) ** NEAR

    def _published_threshold(self, sampling: Any) -> float:
        """Between the two steps in the schedule of the published pipeline ("leading" spacing, offset 1)."""
        spacing = (LAST_TIMESTEP + 1) // self.of
        before, after = (1 + spacing * (self.of - 1 - step) for step in (self.step - 1, self.step))
        sigmas = [sampling.percent_to_sigma(1.0 - timestep / LAST_TIMESTEP) for timestep in (before, after)]
        return math.sqrt(math.prod(sigmas))


@dataclass(frozen=True)
class MergePercent:
    """The noise level from which the strong scales count, as a share of the model's noise schedule, from 0 to 1.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    percent: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.percent <= 1.0:
            raise ValueError(f"the merge point lies between 0 and 1; got {self.percent}.")

    @property
    def fixed(self) -> float | None:
        """The threshold where it is the same for every model, else None."""
        if self.percent <= 0.0:
            return ALWAYS
        return NEVER if self.percent >= 1.0 else None

    def threshold(self, schedule: Schedule) -> float:
        """The sigma from which on, downwards, the strong scales count."""
        if self.fixed is not None:
            return self.fixed
        return schedule.sampling.percent_to_sigma(self.percent) * (1.0 + TIE)


MergePoint = MergeStep | MergePercent


def percent_of(sampling: Any, sigma: float) -> float:
    """The percent of a noise schedule that `percent_to_sigma` translates to this sigma."""
    if sigma == ALWAYS:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sampling.percent_to_sigma(middle) > sigma else (low, middle)
    return high


def _begins_with_noise(schedule: Schedule) -> bool:
    return schedule.empty_latent or schedule.sigmas[0] >= schedule.sampling.percent_to_sigma(ROUNDING)
