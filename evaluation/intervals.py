"""Means with confidence intervals that count people, not pictures.

Pictures of one person are no independent evidence, so people are drawn with replacement (cluster bootstrap), and a
picture counts as often as its person was drawn. Where people stand in several groups, as in pairs of a whole set, a
picture counts by the product over its people ("pigeonhole bootstrap", Owen 2007), which errs to the wide side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n pictures and the 95 % interval over `clusters` people; no interval below two."""

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int

    def shown(self, digits: int, factor: float = 1.0) -> str:
        """ "mean [low, high]" times the factor, or the mean alone where there is no interval."""
        if self.low is None or self.high is None:
            return f"{self.mean * factor:.{digits}f}"
        return f"{self.mean * factor:.{digits}f} [{self.low * factor:.{digits}f}, {self.high * factor:.{digits}f}]"


def estimate_mean(values: Sequence[float], groups: Sequence[Sequence[str]], seed: int = 0) -> Estimate:
    """Mean of pictures' values with its interval; `groups` holds the people of each picture.

    Raises ValueError for no value.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    numbers = np.asarray(values, np.float64)
    weights = bootstrap_weights(groups, seed)
    clusters = num_clusters(groups)
    if clusters < 2:
        return Estimate(float(numbers.mean()), None, None, len(numbers), clusters)
    totals = weights.sum(axis=1)
    means = (weights @ numbers)[totals > 0] / totals[totals > 0]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(numbers.mean()), float(low), float(high), len(numbers), clusters)


def estimate_difference(
    values: Sequence[float], others: Sequence[float], groups: Sequence[Sequence[str]], seed: int = 0
) -> Estimate:
    """Mean of values - others of the same pictures (same people, prompt and seed in two rows), with its interval.

    Raises ValueError for series of different lengths.
    """
    if len(values) != len(others):
        raise ValueError(f"a paired difference needs equally many values, got {len(values)} and {len(others)}")
    return estimate_mean(list(np.subtract(values, others)), groups, seed)


def estimate_ratio(
    values: Sequence[float],
    groups: Sequence[Sequence[str]],
    others: Sequence[float],
    other_groups: Sequence[Sequence[str]],
    seed: int = 0,
) -> Estimate:
    """mean(values) / mean(others) of two rows about the same people, with its interval; n counts `values`.

    People are drawn once for both. Raises ValueError for an empty row or a mean of others of 0.
    """
    if not values or not others:
        raise ValueError("a ratio needs values in both rows")
    top, bottom = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if bottom.mean() == 0:
        raise ValueError("a ratio needs another row whose mean is not 0")
    weights = bootstrap_weights([*groups, *other_groups], seed)
    upper, lower = weights[:, : len(top)], weights[:, len(top) :]
    usable = (upper.sum(axis=1) > 0) & (lower @ bottom != 0)
    upper, lower = upper[usable], lower[usable]
    ratios = (upper @ top / upper.sum(axis=1)) / (lower @ bottom / lower.sum(axis=1))
    clusters = num_clusters([*groups, *other_groups])
    ratio = float(top.mean() / bottom.mean())
    if clusters < 2 or not len(ratios):
        return Estimate(ratio, None, None, len(top), clusters)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(ratio, float(low), float(high), len(top), clusters)


def bootstrap_weights(groups: Sequence[Sequence[str]], seed: int) -> np.ndarray:
    """How often each picture counts in each replicate, (2000, pictures) float64."""
    units = _units(groups)
    names = sorted({name for unit in units for name in unit})
    place = {name: column for column, name in enumerate(names)}
    random = np.random.default_rng(seed)
    draws = random.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES).astype(np.float64)
    weights = np.ones((REPLICATES, len(units)))
    for picture, unit in enumerate(units):
        for name in unit:
            weights[:, picture] *= draws[:, place[name]]
    return weights


def num_clusters(groups: Sequence[Sequence[str]]) -> int:
    """How many units are drawn: people, or groups where nobody is in two of them."""
    return len({name for unit in _units(groups) for name in unit})


def _units(groups: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The units whose draws weigh each picture: its group as one, or its people where a person is in several groups."""
    sets = [tuple(sorted(set(group))) for group in groups]
    seen: dict[str, tuple[str, ...]] = {}
    if all(seen.setdefault(person, people) == people for people in sets for person in people):
        return [("\n".join(people),) for people in sets]
    return sets
