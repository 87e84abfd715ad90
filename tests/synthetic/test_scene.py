from __future__ import annotations

from dataclasses import replace

import pytest
from likeness.synthetic import (
    COLOUR_NAMES,
    EXPRESSIONS,
    GAZES,
    TURNS,
    draw_reference,
    draw_scene,
    train_people,
)

ONE, TWO = train_people(1), train_people(2)


def test_seeds_decide_everything():
    assert draw_scene(TWO, 7) == draw_scene(TWO, 7)
    assert draw_scene(TWO, 7) != draw_scene(TWO, 8)


def test_a_given_name_changes_nothing_else():
    by_chance = draw_scene(ONE, 11, level="busy")
    given = draw_scene(ONE, 11, level="busy", shirt="cyan", background="purple", turn="left", gaze="right")
    person = given.people[0]
    assert (person.shirt, person.turn, person.gaze) == ("cyan", "left", "right")
    assert person.yaw < -0.2 and person.gaze_x > 0.7
    assert given.background.name == "purple"
    same = ("pitch", "roll", "x", "y", "scale", "smile", "neckline")
    assert [getattr(person, name) for name in same] == [getattr(by_chance.people[0], name) for name in same]
    assert given.light == by_chance.light
    assert replace(given.background, name="", colour=(0, 0, 0)) == replace(
        by_chance.background, name="", colour=(0, 0, 0)
    )


def test_names_are_given_to_all_or_to_each():
    assert {person.shirt for person in draw_scene(TWO, 3, shirt="red").people} == {"red"}
    expressions = [person.expression for person in draw_scene(TWO, 3, expression=["sad", None]).people]
    assert expressions[0] == "sad"
    with pytest.raises(ValueError, match="1 names of gaze were given for 2 people"):
        draw_scene(TWO, 3, gaze=["left"])


def test_every_name_is_drawn():
    people = [draw_scene(ONE, seed).people[0] for seed in range(200)]
    backgrounds = {draw_scene(ONE, seed).background.name for seed in range(200)}
    assert {person.shirt for person in people} == backgrounds == set(COLOUR_NAMES)
    assert {person.expression for person in people} == set(EXPRESSIONS)
    assert {person.gaze for person in people} == set(GAZES)
    assert {person.turn for person in people} == set(TURNS)


def test_a_reference_photograph_looks_into_the_camera():
    person = draw_reference(ONE[0], 5).people[0]
    assert (person.expression, person.gaze, person.turn) == ("neutral", "ahead", "ahead")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"person_seeds": ()}, "1 to 3 people, not 0"),
        ({"person_seeds": train_people(4)}, "1 to 3 people, not 4"),
        ({"size": (60, 64)}, "multiples of 8"),
        ({"size": (24, 24)}, "multiples of 8"),
        ({"level": "crowded"}, "unknown level 'crowded'"),
        ({"shirt": "mauve"}, "unknown shirt 'mauve'"),
        ({"background": "mauve"}, "unknown background 'mauve'"),
    ],
)
def test_wrong_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_scene(**{"person_seeds": ONE, "seed": 0} | arguments)
