from __future__ import annotations

import numpy as np
import pytest
from likeness.faces.given_boxes import faces_from_boxes, landmarks_in_box


def _box(x, y, width, height, **more):
    return {"x": x, "y": y, "width": width, "height": height, **more}


@pytest.fixture
def pictures():
    return [np.full((100, 160, 3), 30 * i, np.uint8) for i in range(3)]


def test_boxes_per_picture_become_faces_largest_first(pictures):
    boxes = [[_box(10, 20, 30, 40, label="face", score=0.7)], [], [_box(0, 0, 50, 60), _box(5, 5, 10, 10)]]
    faces = faces_from_boxes(pictures, boxes)
    assert [(face.box, face.image_index, face.score) for face in faces] == [
        ((0, 0, 50, 60), 2, 1.0),
        ((10, 20, 40, 60), 0, 0.7),
        ((5, 5, 15, 15), 2, 1.0),
    ]
    assert faces.detector == "given boxes" and faces.pictures_without_face == (1,)


@pytest.mark.parametrize("wrap", [lambda box: box, lambda box: [box], lambda box: [[box]]])
def test_one_box_serves_every_picture(pictures, wrap):
    faces = faces_from_boxes(pictures, wrap(_box(10, 20, 30, 40)))
    assert [face.image_index for face in faces] == [0, 1, 2] and {face.box for face in faces} == {(10, 20, 40, 60)}


def test_no_boxes_give_no_faces(pictures):
    assert len(faces_from_boxes(pictures, [])) == 0 and len(faces_from_boxes(pictures, [[], [], []])) == 0


def test_landmarks_lie_where_the_detector_sees_them(detector, astronaut, six_people):
    """Within 15 % of the box for frontal and turned faces alike; the median face is within 10 %, a frontal one 5 %."""
    errors = []
    for picture in (astronaut, six_people):
        for face in detector.detect(picture):
            x1, y1, x2, y2 = face.box
            errors.append(np.abs((landmarks_in_box(face.box) - face.landmarks) / (x2 - x1, y2 - y1)).mean())
    assert len(errors) == 7 and max(errors) < 0.15 and np.median(errors) < 0.1 and errors[0] < 0.05


def test_crops_of_boxes_are_upright_and_centred(pictures):
    pictures[0][:] = 0
    pictures[0][30:70, 50:80] = 255
    crop = faces_from_boxes(pictures[:1], _box(50, 30, 30, 40)).crops(112)[0]
    rows, columns = np.where(crop[..., 0] > 128)
    assert abs((columns.min() + columns.max()) / 2 - 56) < 2
    assert 0.65 < (columns.max() - columns.min()) / 112 < 0.75 and rows.max() == 111 and 5 < rows.min() < 20


def test_boxes_over_the_edge_are_clipped_but_landmarks_are_not(pictures):
    (face,) = faces_from_boxes(pictures[:1], _box(-40, -20, 80, 90))
    assert face.box == (0, 0, 40, 70)
    np.testing.assert_allclose(face.landmarks, landmarks_in_box((-40, -20, 40, 70)))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[], []], "boxes for 2 pictures, but 3 pictures"),
        ([[_box(0, 0, 9, 9)], [_box(0, 0, 0, 9)], []], "box 1 of picture 2 has no size: width 0"),
        ([[], [], [_box(0, 0, 9, 9), _box(0, 0, 9, float("nan"))]], "box 2 of picture 3 has no size"),
        (
            _box(200, 10, 20, 20),
            r"box 1 of picture 1 \(from 200, 10 to 220, 30\) lies outside the picture of 160 x 100",
        ),
        ({"x": 1, "y": 2}, "must have the numbers x, y, width and height"),
        (_box(1, 2, "wide", 3), "must have the numbers x, y, width and height"),
        ([[(1, 2, 3, 4)], [], []], "must have the numbers"),
    ],
)
def test_boxes_that_cannot_be_used_are_explained(pictures, boxes, message):
    with pytest.raises(ValueError, match=message):
        faces_from_boxes(pictures, boxes)
