"""Identity blending score (spec, section 12, [inferred]): how much the people in one picture look alike."""

from __future__ import annotations

import numpy as np

DEFINITION = (
    "mean pairwise cosine between the different generated faces inside one picture of several people, negative values "
    "as 0; lower is better. Pictures with fewer than two faces have none. The paper does not define its score: this is "
    "inferred from its numbers"
)


def blending_score(faces: np.ndarray) -> float | None:
    """Blending in 0 to 1 of generated faces (k, d) of unit length; None below two faces."""
    if len(faces) < 2:
        return None
    cosines = (faces @ faces.T)[np.triu_indices(len(faces), 1)]
    return float(cosines.clip(min=0).mean())
