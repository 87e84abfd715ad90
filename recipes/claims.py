"""What the table is to show, claim by claim, with the interval that says whether it does."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.intervals import Estimate, estimate_ratio
from ..evaluation.judges.dlib_resnet import NAME as JUDGE
from ..evaluation.results import Results
from .table import (
    BASE,
    FULL,
    GLOBAL,
    MIXED,
    NO_DROPPING,
    NO_ROUTER,
    NO_ROUTING_LOSS,
    REFERENCES,
    TWO,
)

FACE_SIM, BLENDING = f"face_sim/{JUDGE}", f"blending/{JUDGE}"
AGREEMENT, ROUTING = "attributes", "routing_accuracy"
_RELATIONS = {"<": operator.lt, "≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Claim:
    """A sentence, what was measured, and what was expected of it."""

    sentence: str
    measured: str
    wanted: str
    holds: bool


def claims(results: Results, true_routing: Estimate) -> list[Claim]:
    """The claims about results that hold all rows of the table, and about the routing of true pictures."""

    def mean(row: str, metric: str) -> Estimate | None:
        return results.rows[row].scores.get(metric)  # some metrics need faces, which a poor model does not draw

    def ratio(row: str, other: str, metric: str) -> Estimate | None:
        top, bottom = mean(row, metric), mean(other, metric)
        if top is None or bottom is None or bottom.mean == 0:
            return None
        return estimate_ratio(*results.values(row, metric), *results.values(other, metric), results.seed)

    strangers = results.levels[JUDGE].strangers_score
    assert strangers is not None, "the table has several people"
    bounded = (
        ("without identity faces are as like as strangers", mean(BASE, FACE_SIM), "≤", strangers + 0.05),
        ("Face Sim of a global embedding / local features", ratio(GLOBAL, FULL, FACE_SIM), "<", 1),
        ("prompt agreement without structure dropping / with", ratio(NO_DROPPING, FULL, AGREEMENT), "<", 1),
        ("prompt agreement with identity / base model", ratio(FULL, BASE, AGREEMENT), "≥", 0.9),
        ("two people: Face Sim with router / without", ratio(TWO, NO_ROUTER, FACE_SIM), "≥", 3),
        ("two people: blending with router / without", ratio(TWO, NO_ROUTER, BLENDING), "≤", 0.5),
        ("two people: Face Sim without routing loss / with", ratio(NO_ROUTING_LOSS, TWO, FACE_SIM), "<", 1),
        ("two people: routing accuracy inside faces", mean(TWO, ROUTING), "≥", 0.9),
        ("two people: routing accuracy inside the faces of true pictures", true_routing, "≥", 0.9),
    )
    return [
        *(_bounded(*each) for each in bounded),
        _in_order(
            "Face Sim with 1, 2 and 4 references",
            [results.rows[row].scores[FACE_SIM].mean for row in (FULL, *REFERENCES)],
        ),
        _in_order("likeness to the second person, mixed in by 0 to 100 %", _likeness(results, second=True)),
        _in_order("likeness to the first person, with 100 to 0 % of them", _likeness(results, second=False)[::-1]),
    ]


def _bounded(sentence: str, estimate: Estimate | None, relation: str, bound: float) -> Claim:
    wanted = f"{relation} {bound:.2g}"
    if estimate is None:
        return Claim(sentence, "nothing to measure", wanted, holds=False)
    return Claim(sentence, estimate.shown(2), wanted, _RELATIONS[relation](estimate.mean, bound))


def claims_markdown(found: Sequence[Claim]) -> str:
    """A Markdown table of claims."""
    lines = ["| | measured | wanted | |", "|---|---|---|---|"]
    lines += [f"| {one.sentence} | {one.measured} | {one.wanted} | {'yes' if one.holds else 'no'} |" for one in found]
    return "\n".join(lines) + "\n"


def _likeness(results: Results, second: bool) -> list[float]:
    """For each mixture: mean cosine of the largest face with its first person or with the one mixed in."""
    means = []
    for row in MIXED:
        cosines = [
            cosine
            for picture in results.pictures
            if picture.row == row
            for name, cosine in picture.cosines.get(JUDGE, {}).items()  # none where no face was found
            if (name not in picture.people) == second
        ]
        means.append(float(np.mean(cosines)) if cosines else float("nan"))
    return means


def _in_order(sentence: str, means: Sequence[float]) -> Claim:
    return Claim(sentence, ", ".join(f"{mean:.2f}" for mean in means), "rises", bool(np.all(np.diff(means) > 0)))
