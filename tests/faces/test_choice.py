from __future__ import annotations

import pytest
from likeness.faces.choice import RULES, choose_faces

# Two people: a large one on the right, low down; a small one on the left, near the middle, with the better score.
TWO = [(120, 40, 180, 100, 0.80, 0), (60, 30, 90, 60, 0.99, 0)]


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        ("largest", [0, 1]),
        ("left to right", [1, 0]),
        ("top to bottom", [1, 0]),
        ("centre", [1, 0]),
        ("score", [1, 0]),
    ],
)
def test_rules_on_two_people(make_faces, rule, order):
    faces = make_faces(TWO)
    for count in (1, 2):
        chosen = choose_faces(faces, rule, count)
        assert list(chosen) == [faces[position] for position in order[:count]]
        assert chosen.images is faces.images and chosen.detector == "test"


def test_every_rule_is_tested_and_largest_wins_over_order(make_faces):
    assert RULES == ("largest", "left to right", "top to bottom", "centre", "score", "by number")
    assert choose_faces(make_faces(TWO[::-1]), "largest", 1)[0].score == 0.80


def test_equal_faces_keep_their_order(make_faces):
    faces = make_faces([(10, 10, 20, 20, 0.5, 1), (10, 10, 20, 20, 0.5, 0)], sizes=((100, 200), (100, 200)))
    for rule in RULES[:-1]:
        assert list(choose_faces(faces, rule, 2)) == list(faces)


def test_rules_rank_over_all_pictures_by_relative_position(make_faces):
    """x 300 in a picture 1000 wide is further left than x 50 in one that is 100 wide."""
    faces = make_faces([(45, 45, 55, 55, 0.9, 0), (290, 290, 310, 310, 0.8, 1)], sizes=((100, 100), (1000, 1000)))
    assert choose_faces(faces, "left to right", 1)[0].image_index == 1
    assert choose_faces(faces, "top to bottom", 1)[0].image_index == 1
    assert choose_faces(faces, "centre", 1)[0].image_index == 0
    assert choose_faces(faces, "largest", 1)[0].image_index == 1


@pytest.mark.parametrize(
    ("numbers", "positions"), [("1", [0]), ("3,1", [2, 0]), ("1, 3-4", [0, 2, 3]), (" 2 - 3 ", [1, 2]), ("2-2", [1])]
)
def test_numbers_are_those_of_the_preview(make_faces, numbers, positions):
    faces = make_faces([(10 * i, 10, 10 * i + 8, 20, 0.9, 0) for i in range(4)])
    assert list(choose_faces(faces, "by number", 1, numbers)) == [faces[position] for position in positions]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("", "must look like 1, 3-4"),
        ("a", "must look like 1, 3-4 and not 'a'"),
        ("1,,2", "must look like"),
        ("-1", "must look like"),
        ("0", "asked for face 0, but the faces found are numbered 1 to 2"),
        ("2-3", "asked for face 2-3, but the faces found are numbered 1 to 2"),
        ("2-1", "run backwards; write 1-2"),
        ("1, 1-2", "face 1 is listed twice"),
    ],
)
def test_wrong_numbers_are_explained(make_faces, numbers, message):
    with pytest.raises(ValueError, match=message):
        choose_faces(make_faces(TWO), "by number", 1, numbers)


def test_fewer_faces_than_asked_for(make_faces):
    with pytest.raises(ValueError, match="asked for 3 faces, found 2 in the picture"):
        choose_faces(make_faces(TWO), "largest", 3)
    with pytest.raises(ValueError, match=r"found 2 in pictures 1 to 3 \(none in picture 2, 3\)"):
        choose_faces(make_faces(TWO, sizes=((100, 200),) * 3), "score", 3)


@pytest.mark.parametrize("rule", RULES)
def test_no_face_at_all_has_its_own_message(make_faces, rule):
    with pytest.raises(
        ValueError, match="no face was found in the picture .200 x 100 pixels, detector: test.. Use a pic"
    ):
        choose_faces(make_faces([]), rule, 1, "1")
    with pytest.raises(ValueError, match="no face was found in pictures 1 to 2 .200 x 100, 8 x 9 pixels"):
        choose_faces(make_faces([], sizes=((100, 200), (9, 8))), rule, 1, "1")


def test_unknown_rules_and_counts_are_refused(make_faces):
    with pytest.raises(ValueError, match="unknown rule 'smallest'.*by number"):
        choose_faces(make_faces(TWO), "smallest", 1)
    with pytest.raises(ValueError, match="asked for 0 faces"):
        choose_faces(make_faces(TWO), "largest", 0)
