"""How well a judge tells people apart: the levels that scores are read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Separation:
    """Cosines of reference faces among themselves.

    strangers, same: mean cosine of pairs of two people, and of one person. strangers_score: the mean of strangers with
    negative values as 0, the level of a Face Sim that shows no likeness. auc: chance that a pair of one person scores
    above a pair of two. None where there is no such pair.
    """

    strangers: float | None
    strangers_score: float | None
    same: float | None
    auc: float | None


def separation(embeddings: np.ndarray, people: Sequence[str]) -> Separation:
    """Compare embeddings (k, d) of unit length of faces whose people are known."""
    first, second = np.triu_indices(len(people), 1)
    cosines = (embeddings @ embeddings.T)[first, second] if len(people) else np.zeros(0)
    names = np.array(people)
    equal = names[first] == names[second]
    same, strangers = cosines[equal], cosines[~equal]
    auc = None
    if len(same) and len(strangers):
        order = np.sort(strangers)
        below, up_to = np.searchsorted(order, same, "left"), np.searchsorted(order, same, "right")
        auc = float((below + up_to).mean() / 2 / len(order))
    return Separation(
        float(strangers.mean()) if len(strangers) else None,
        float(strangers.clip(min=0).mean()) if len(strangers) else None,
        float(same.mean()) if len(same) else None,
        auc,
    )
