"""What the table is to show, claim by claim, with the interval that says whether it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.intervals import Estimate, estimate_mean, estimate_ratio
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


@dataclass(frozen=True)
class Claim:
    """A sentence, what was measured, and what was expected of it."""

    sentence: str
    measured: str
    wanted: str
    holds: bool


def claims(results: Results) -> list[Claim]:
    """The claims about results that hold all rows of the table."""

    def mean(row: str, metric: str) -> Estimate:
        return estimate_mean(*results.values(row, metric), results.seed)

    def ratio(row: str, other: str, metric: str) -> Estimate:
        return estimate_ratio(*results.values(row, metric), *results.values(other, metric), results.seed)

    def claim(sentence: str, estimate: Estimate, wanted: str, holds: Callable[[float], bool]) -> Claim:
        return Claim(sentence, _shown(estimate), wanted, holds(estimate.mean))

    strangers = results.levels[JUDGE].strangers_score
    assert strangers is not None, "the table has several people"
    return [
        claim(
            "without identity faces are as like as strangers", mean(BASE, FACE_SIM), f"about {strangers:.2f}",
            lambda value: value <= strangers + 0.05,
        ),
        claim(
            "Face Sim of a global embedding / local features", ratio(GLOBAL, FULL, FACE_SIM), "< 1",
            lambda value: value < 1,
        ),
        claim(
            "prompt agreement without structure dropping / with", ratio(NO_DROPPING, FULL, AGREEMENT), "< 1",
            lambda value: value < 1,
        ),
        claim(
            "prompt agreement with identity / base model", ratio(FULL, BASE, AGREEMENT), "≥ 0.9",
            lambda value: value >= 0.9,
        ),
        claim(
            "two people: Face Sim with router / without", ratio(TWO, NO_ROUTER, FACE_SIM), "≥ 3",
            lambda value: value >= 3,
        ),
        claim(
            "two people: blending with router / without", ratio(TWO, NO_ROUTER, BLENDING), "≤ 0.5",
            lambda value: value <= 0.5,
        ),
        claim(
            "two people: Face Sim without routing loss / with", ratio(NO_ROUTING_LOSS, TWO, FACE_SIM), "< 1",
            lambda value: value < 1,
        ),
        claim(
            "two people: routing accuracy inside faces", mean(TWO, ROUTING), "≥ 0.9", lambda value: value >= 0.9
        ),
        _in_order("Face Sim with 1, 2 and 4 references", [mean(row, FACE_SIM) for row in (FULL, *REFERENCES)]),
        _in_order("likeness to the second person, mixed in by 0 to 100 %", _likeness(results, second=True)),
        _in_order("likeness to the first person, with 100 to 0 % of them", _likeness(results, second=False)[::-1]),
    ]  # fmt: skip


def claims_markdown(found: Sequence[Claim]) -> str:
    """A Markdown table of claims."""
    lines = ["| | measured | wanted | |", "|---|---|---|---|"]
    lines += [f"| {one.sentence} | {one.measured} | {one.wanted} | {'yes' if one.holds else 'no'} |" for one in found]
    return "\n".join(lines) + "\n"


def _likeness(results: Results, second: bool) -> list[Estimate]:
    """For each mixture: mean cosine of the largest face with its first person or with the one mixed in."""
    series = []
    for row in MIXED:
        pictures = [picture for picture in results.pictures if picture.row == row and picture.cosines[JUDGE]]
        values = [
            next(cosine for name, cosine in picture.cosines[JUDGE].items() if (name not in picture.people) == second)
            for picture in pictures
        ]
        series.append(estimate_mean(values, [tuple(picture.cosines[JUDGE]) for picture in pictures], results.seed))
    return series


def _in_order(sentence: str, series: Sequence[Estimate]) -> Claim:
    rises = bool(np.all(np.diff([estimate.mean for estimate in series]) > 0))
    return Claim(sentence, ", ".join(f"{estimate.mean:.2f}" for estimate in series), "rises", rises)


def _shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
