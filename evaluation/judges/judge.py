"""What every judge is: a recogniser with a name, a fingerprint and a threshold.

Letters: k faces, d length of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...faces.types import Face
from .centre import Centre

# (pictures (H, W, 3) uint8 RGB, faces whose image_index counts these pictures) -> raw embeddings (k, d)
Network = Callable[[Sequence[np.ndarray], Sequence[Face]], np.ndarray]

_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, eq=False)
class Judge:
    """A recogniser whose embeddings are compared by cosine.

    Attributes:
        name: what results call it.
        fingerprint: SHA-256 of its weights file.
        threshold: cosine from which two faces count as one person.
        preprocessing: one sentence on how a face becomes the network's input.
        network: the recogniser.
        centre: subtracted from embeddings of unit length, which are then normalised again; None for networks without.
    """

    name: str
    fingerprint: str
    threshold: float
    preprocessing: str
    network: Network
    centre: Centre | None = None

    def embed(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        """Embeddings (k, d) float64 of unit length, one per face in order; their cosine is the similarity.

        images: each (H, W, 3) uint8 RGB. faces: in pixels of these pictures, which their image_index counts from 0.
        """
        if not faces:
            return np.zeros((0, 0))
        vectors = _unit(np.asarray(self.network(images, faces), np.float64))
        return vectors if self.centre is None else _unit(vectors - self.centre.vector)

    def describe(self) -> dict[str, Any]:
        """What results say about this judge; JSON values."""
        centre = None if self.centre is None else self.centre.describe()
        return {
            "name": self.name,
            "sha256": self.fingerprint,
            "threshold": self.threshold,
            "preprocessing": self.preprocessing,
            "centre": centre,
        }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(_SMALLEST_NORM)
