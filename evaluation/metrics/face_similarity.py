"""Face Sim (spec, section 12): cosine of reference and generated face.

Letters: N references, k generated faces, d length of an embedding, p photos of one reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEFINITION = (
    "cosine of the embeddings of reference and generated face; several photos of one person count by the mean of their "
    "cosines; negative values and pictures without a face count 0. One person: the largest generated face. Several: "
    "all faces against all references, greedy matching (take the highest cosine, remove its row and column, repeat); "
    "the picture's value is the LOWEST matched one, and 0 if there are fewer faces than references"
)


def similarities(references: Sequence[np.ndarray], faces: np.ndarray) -> np.ndarray:
    """Cosines (N, k) of references, each (p, d), and generated faces (k, d), all of unit length: means over photos."""
    if len(faces) == 0 or not references:
        return np.zeros((len(references), len(faces)))
    return np.stack([(photos @ faces.T).mean(axis=0) for photos in references])


def greedy_match(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (reference, face), the highest value of an (N, k) matrix first; min(N, k) of them.

    Of equal values the lower reference is taken, then the lower face.
    """
    left = np.array(matrix, np.float64)
    pairs = []
    for _ in range(min(left.shape)):
        reference, face = (int(place) for place in np.unravel_index(np.argmax(left), left.shape))
        pairs.append((reference, face))
        left[reference, :] = -np.inf
        left[:, face] = -np.inf
    return pairs


def face_similarity(matrix: np.ndarray) -> float:
    """Face Sim of one picture from its (N, k) cosines, faces largest first; 0 to 1 (see `DEFINITION`)."""
    num_references, num_faces = matrix.shape
    if num_references == 0:
        raise ValueError("Face Sim needs at least one reference")
    if num_faces < num_references:
        return 0.0
    if num_references == 1:
        return max(0.0, float(matrix[0, 0]))
    return max(0.0, min(float(matrix[pair]) for pair in greedy_match(matrix)))
