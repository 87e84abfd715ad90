"""How different two people are drawn, on pictures whose faces are patches of known colours."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.evaluation.found_faces import look_at
from likeness.evaluation.pictures import Picture, Reference
from likeness.evaluation.results import PictureScores, Results, SeenFace
from likeness.faces.detection import load_detector
from likeness.recipes.people import sitters
from likeness.recipes.told_apart import looks, share_of_difference, told_apart, told_apart_markdown

DARK, FAIR = (90, 60, 40), (240, 200, 180)
BLACK, BLOND = (20, 20, 20), (230, 200, 90)
BOX = (20.0, 20.0, 60.0, 70.0)


def face(skin, hair, side=100):
    """A face of one colour that fills BOX, with hair above and over its upper edge."""
    picture = np.full((side, side, 3), 128, np.uint8)
    picture[20:70, 20:60] = skin
    picture[5:24, 15:65] = hair
    return picture


def test_colours_are_read_off_cheeks_and_hair():
    read = looks(face(DARK, BLOND), BOX)
    np.testing.assert_allclose(read, np.array([*DARK, *BLOND]) / 255)


def test_a_box_that_leaves_the_picture_is_cut():
    assert np.isfinite(looks(face(DARK, BLOND), (-30.0, -40.0, 10.0, 5.0))).all()


@pytest.mark.parametrize(
    ("drawn", "share"),
    [
        (((1.0, 0.0), (0.0, 0.0)), 1.0),
        (((0.0, 0.0), (1.0, 0.0)), 1.0),  # the other way round
        (((0.5, 0.2), (0.5, 0.2)), 0.0),  # one face twice
        (((0.75, 0.0), (0.25, 0.0)), 0.5),
        (((0.0, 1.0), (0.0, 0.0)), 0.0),  # different in another way than the people
        (((9.0, 0.0), (0.0, 0.0)), 1.0),
    ],
)
def test_share_of_the_difference(drawn, share):
    people = np.array([1.0, 0.3]), np.array([0.0, 0.3])
    assert share_of_difference([np.array(one) for one in drawn], people) == pytest.approx(share)


def test_true_pictures_have_the_whole_difference_and_one_person_twice_none_of_it():
    """On drawn people and with the bundled detector: first both, then the first of them on both sides."""
    detector = load_detector("bundled", ())
    first, second, *_ = sorted(sitters(6, detector, "plain"), key=lambda one: one.photos[0][100:150, 110:150].mean())[
        ::5
    ]
    references = tuple(Reference(one.name, one.photos[:1]) for one in (first, second))
    sides = {"both": (first, second), "swapped": (second, first), "one twice": (first, first)}
    pictures = [
        Picture(row, row, np.hstack([one.photos[0] for one in pair]), references) for row, pair in sides.items()
    ]
    scores = [
        PictureScores(
            one.row, one.row, one.people, "", 0, {}, tuple(SeenFace(face.box, 1.0, {}) for face in found.faces), {}
        )
        for one, found in zip(pictures, look_at([one.image for one in pictures], detector, []), strict=True)
    ]
    found = told_apart(pictures, Results({}, tuple(scores), {}, {}, {}), detector)
    assert found["both"].mean > 0.9 and found["swapped"].mean > 0.9
    assert found["one twice"].mean < 0.1
    assert "| one twice | 0." in told_apart_markdown(found)
