"""What an evaluation found, as values and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .intervals import LEVEL, REPLICATES, Estimate, estimate_mean
from .metrics.separation import Separation

FORMAT = 1
_DIGITS = 6  # decimals in files: more are noise of the platform, and the same manifest is to give the same bytes


@dataclass(frozen=True)
class SeenFace:
    """One generated face: box in the picture's pixels, detector's score, and judge -> matched person and cosine."""

    box: tuple[float, float, float, float]
    score: float
    matches: Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class PictureScores:
    """Scores of one picture by metric; where a metric belongs to a judge its name ends in "/<judge>".

    cosines: judge -> person -> raw cosine of the largest face (people who are meant and others), empty without a face.
    """

    name: str
    row: str
    people: tuple[str, ...]
    prompt: str
    seed: int | None
    scores: Mapping[str, float]
    faces: tuple[SeenFace, ...]
    cosines: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One method: means of its pictures' scores, and its FID where one was asked for."""

    name: str
    num_people: int
    scores: Mapping[str, Estimate]
    fid: float | None = None


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    rows: by name, in the order of the pictures. levels: judge -> what strangers and equal people score.
    tools: detector, judges and other networks with fingerprints. definitions: metric -> sentence.
    """

    rows: Mapping[str, Row]
    pictures: tuple[PictureScores, ...]
    levels: Mapping[str, Separation]
    tools: Mapping[str, Any]
    definitions: Mapping[str, str]
    seed: int = 0

    def values(self, row: str, metric: str) -> tuple[list[float], list[tuple[str, ...]]]:
        """The values of one metric over a row's pictures that have it, and the people of each."""
        having = [picture for picture in self.pictures if picture.row == row and metric in picture.scores]
        return [picture.scores[metric] for picture in having], [picture.people for picture in having]


def summarise(name: str, pictures: Sequence[PictureScores], seed: int) -> Row:
    """Means of a row's pictures, at least one."""
    metrics = list(dict.fromkeys(metric for picture in pictures for metric in picture.scores))
    scores = {}
    for metric in metrics:
        having = [picture for picture in pictures if metric in picture.scores]
        values, people = [picture.scores[metric] for picture in having], [picture.people for picture in having]
        scores[metric] = estimate_mean(values, people, seed)
    return Row(name, max(len(picture.people) for picture in pictures), scores)


def results_json(results: Results) -> str:
    """The results as JSON with sorted keys and six decimals: equal results are equal bytes."""
    content = {
        "format": FORMAT,
        "interval": f"{LEVEL:.0%} percentile bootstrap over people, {REPLICATES} replicates, seed {results.seed}",
        "definitions": results.definitions,
        "tools": results.tools,
        "levels": {judge: asdict(level) for judge, level in results.levels.items()},
        "rows": {name: _row(row) for name, row in results.rows.items()},
        "pictures": [asdict(picture) for picture in results.pictures],
    }
    return json.dumps(_rounded(content), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    scores = {metric: asdict(estimate) for metric, estimate in row.scores.items()}
    return {"people": row.num_people, "scores": scores, "fid": row.fid}


def _rounded(value: Any) -> Any:
    """JSON values with floats rounded; infinite ones and NaN, which JSON lacks, as None."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0 if math.isfinite(value) else None
    return value
