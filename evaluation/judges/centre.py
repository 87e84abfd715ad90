"""The mean that is taken from a judge's embeddings, so that strangers score about 0.

The dlib network puts all faces of the world into one corner of its space: the cosine of two strangers is 0.82. Less the
mean of many people's embeddings it is about 0, and that of two photos of one person about 0.85.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
_DIGITS = 6  # decimals kept of each component: the embedding's own are about 0.1


@dataclass(frozen=True, eq=False)
class Centre:
    """A mean embedding.

    vector: (d,) float64. made_from: whose faces, in words. judge: fingerprint of the network that saw them.
    """

    vector: np.ndarray
    made_from: str
    judge: str

    def describe(self) -> dict[str, str]:
        """Provenance and SHA-256 of the vector, for results."""
        digest = hashlib.sha256(self.vector.astype("<f8").tobytes()).hexdigest()
        return {"made_from": self.made_from, "sha256": digest}


def fit_centre(embeddings: np.ndarray | Sequence[np.ndarray], made_from: str, judge: str) -> Centre:
    """The mean of embeddings (k, d) of unit length; of several sets each counts the same, whatever its size.

    embeddings: by a judge without a centre. made_from: whose faces. judge: the network's fingerprint. None of the
    people measured later may be among them.
    Raises ValueError for an empty set.
    """
    sets = [embeddings] if isinstance(embeddings, np.ndarray) else list(embeddings)
    if not sets or any(len(one) == 0 for one in sets):
        raise ValueError("a centre needs at least one face in every set of pictures; none was found in one of them")
    vector = np.mean([np.asarray(one, np.float64).mean(axis=0) for one in sets], axis=0)
    return Centre(vector.round(_DIGITS), made_from, judge)


def save_centre(centre: Centre, path: str | Path) -> None:
    """Write a centre as JSON."""
    content = {
        "format": FORMAT,
        "judge": centre.judge,
        "made_from": centre.made_from,
        "vector": [round(float(value), _DIGITS) for value in centre.vector],
    }
    Path(path).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def load_centre(path: str | Path, judge: str) -> Centre:
    """Read what `save_centre` wrote, for the network with the fingerprint `judge`.

    Raises ValueError for a file that is missing, damaged, of another format or made for another network.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        vector = np.array(content["vector"], np.float64)
        made_from, made_for, version = str(content["made_from"]), str(content["judge"]), content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the centre {path} could not be read: {error!r}") from error
    if version != FORMAT or vector.ndim != 1:
        raise ValueError(f"the centre {path} is of format {version}; this version reads format {FORMAT}")
    if made_for != judge:
        raise ValueError(
            f"the centre {path} was made for the network {made_for[:12]}..., but the judge is {judge[:12]}...; fit one "
            "for this judge with `python -m likeness.evaluation centre`"
        )
    return Centre(vector, made_from, judge)
