"""One person drawn twice, and people who were not drawn."""

from __future__ import annotations

import numpy as np

from .face_similarity import greedy_match

DUPLICATES = (
    "share of the pictures of several people in which at least two generated faces are one person to the judge: their "
    "cosine is at or above its threshold"
)
UNMATCHED = (
    "share of the references that no generated face shows: in the greedy matching their face's cosine is below the "
    "judge's threshold, or no face is left for them"
)


def duplicate_pairs(faces: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Pairs of generated faces (k, d) of unit length whose cosine is at least `threshold`, lower index first."""
    cosines = faces @ faces.T
    return [
        (first, second)
        for first in range(len(faces))
        for second in range(first + 1, len(faces))
        if cosines[first, second] >= threshold
    ]


def unmatched_references(matrix: np.ndarray, threshold: float) -> list[int]:
    """References, from 0, of an (N, k) matrix of cosines that no generated face shows."""
    shown = {reference for reference, face in greedy_match(matrix) if matrix[reference, face] >= threshold}
    return [reference for reference in range(len(matrix)) if reference not in shown]
