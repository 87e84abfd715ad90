"""The claims about the table, on results whose means are known."""

from __future__ import annotations

import pytest
from likeness.evaluation.intervals import Estimate
from likeness.evaluation.metrics.separation import Separation
from likeness.evaluation.results import PictureScores, Results, summarise
from likeness.recipes import table
from likeness.recipes.claims import claims, claims_markdown

PEOPLE = [f"person {number}" for number in range(8)]
EXPECTED = {  # row -> Face Sim, prompt agreement, blending, routing accuracy
    table.BASE: (0.05, 0.9, None, None),
    table.GLOBAL: (0.2, 0.9, None, None),
    table.NO_DROPPING: (0.4, 0.6, None, None),
    table.FULL: (0.4, 0.86, None, None),
    "2 references": (0.42, 0.86, None, None),
    "4 references": (0.45, 0.86, None, None),
    table.NO_ROUTER: (0.1, 0.8, 0.6, None),
    table.NO_ROUTING_LOSS: (0.2, 0.8, 0.4, 0.6),
    table.TWO: (0.35, 0.8, 0.2, 0.95),
}


def results(changed):
    pictures = []
    for row, values in {**EXPECTED, **changed}.items():
        pictures += [picture(row, number, *values) for number in range(len(PEOPLE))]
    for step, row in enumerate(table.MIXED):
        for number, person in enumerate(PEOPLE):
            following = PEOPLE[(number + 1) % len(PEOPLE)]
            cosines = {"dlib": {person: 0.5 - 0.1 * step, following: 0.1 * step}}
            pictures.append(PictureScores("", row, (person,), "", 0, {"face_sim/dlib": 0.1}, (), cosines))
        pictures.append(PictureScores("", row, (PEOPLE[0],), "", 0, {"face_sim/dlib": 0.0}, (), {}))  # no face found
    rows = {
        name: summarise(name, [one for one in pictures if one.row == name], 0) for name in {p.row for p in pictures}
    }
    return Results(rows, tuple(pictures), {"dlib": Separation(0.0, 0.05, 0.8, 0.99)}, {}, {})


def picture(row, number, similarity, agreement, blending, routing):
    scores = {
        "face_sim/dlib": similarity,
        "attributes": agreement,
        "blending/dlib": blending,
        "routing_accuracy": routing,
    }
    measured = {name: value for name, value in scores.items() if value is not None}
    people = (PEOPLE[number], PEOPLE[(number + 1) % len(PEOPLE)])[: 2 if blending is not None else 1]
    return PictureScores("", row, people, "", 0, measured, (), {"dlib": {}})


def claims_about(found, routed=0.95):
    return claims(found, Estimate(routed, routed, routed, 8, 8))


def failing(changed):
    return {number for number, claim in enumerate(claims_about(results(changed))) if not claim.holds}


def test_all_claims_hold_and_say_what_was_measured():
    found = claims_about(results({}))
    assert all(claim.holds for claim in found)
    page = claims_markdown(found).splitlines()
    assert "| two people: Face Sim with router / without | 3.50 [3.50, 3.50] | ≥ 3 | yes |" in page
    assert "0.00, 0.10, 0.20, 0.30, 0.40 | rises | yes |" in page[-2]
    assert "0.10, 0.20, 0.30, 0.40, 0.50 | rises | yes |" in page[-1]


@pytest.mark.parametrize(
    ("row", "values", "broken"),
    [
        (table.BASE, (0.3, 0.9, None, None), {0}),
        (table.GLOBAL, (0.5, 0.9, None, None), {1}),
        (table.NO_DROPPING, (0.4, 0.9, None, None), {2}),
        (table.BASE, (0.05, 1.0, None, None), {3}),
        (table.NO_ROUTER, (0.2, 0.8, 0.6, None), {4}),
        (table.NO_ROUTER, (0.1, 0.8, 0.3, None), {5}),
        (table.NO_ROUTING_LOSS, (0.4, 0.8, 0.4, 0.6), {6}),
        (table.TWO, (0.35, 0.8, 0.2, 0.85), {7}),
        (table.FULL, (0.43, 0.86, None, None), {9}),
    ],
)
def test_each_claim_can_fail(row, values, broken):
    assert failing({row: values}) == broken


@pytest.mark.parametrize(
    ("row", "values", "unmeasured"),
    [
        (table.NO_ROUTER, (0.0, 0.8, 0.6, None), 1),  # no ratio to 0
        (table.NO_ROUTER, (0.1, 0.8, None, None), 1),  # two faces in no picture
        (table.TWO, (0.35, 0.8, None, None), 2),
    ],
)
def test_what_a_poor_model_leaves_unmeasured_does_not_hold(row, values, unmeasured):
    found = claims_about(results({row: values}))
    missing = [claim for claim in found if claim.measured == "nothing to measure"]
    assert len(missing) == unmeasured and not any(claim.holds for claim in missing)


def test_the_claim_about_true_pictures_can_fail():
    assert [number for number, claim in enumerate(claims_about(results({}), 0.85)) if not claim.holds] == [8]
