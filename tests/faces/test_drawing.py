from __future__ import annotations

import numpy as np
import pytest
from likeness.faces.drawing import numbered_preview


def test_each_picture_shows_its_own_faces(make_faces):
    faces = make_faces([(20, 30, 80, 90, 0.9, 1)], sizes=((120, 120), (120, 160)))
    first, second = numbered_preview(faces)
    assert (first == 90).all() and second.shape == (120, 160, 3) and second.dtype == np.uint8
    changed = (second != 90).any(axis=-1)
    assert changed[30, 20:80].all() and changed[30:90, 80].all()  # the box
    for x, y in faces[0].landmarks.round().astype(int):
        assert changed[y, x]
    assert not changed[100:].any() and (faces.images[1] == 90).all()


def test_numbers_follow_the_order_of_the_faces(make_faces):
    """Swapping two faces swaps their labels and nothing else of the picture's geometry."""
    one, two = (10, 40, 60, 90, 0.9, 0), (110, 40, 160, 90, 0.9, 0)
    (ordered,), (swapped,) = numbered_preview(make_faces([one, two])), numbered_preview(make_faces([two, one]))
    assert (ordered != swapped).any()
    np.testing.assert_array_equal(ordered[:, :100], swapped[:, 100:])


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (2000, 3000), (4000, 300)])
def test_labels_grow_with_the_picture_and_stay_inside(make_faces, size):
    height, width = size
    corner_box = (width - 3, 0, width + 30, height * 0.3, 0.9, 0)  # no room above, reaches over the right edge
    (preview,) = numbered_preview(make_faces([corner_box], sizes=(size,)))
    plate = (preview == (0xE6, 0x9F, 0x00)).all(axis=-1)
    rows, columns = np.where(plate)
    share = max(8, min(size) * 0.02)
    assert plate.sum() > share**2 / 2
    assert columns.max() - columns.min() >= share / 2 and rows.max() - rows.min() >= share


def test_a_tiny_picture_does_not_crash(make_faces):
    (preview,) = numbered_preview(make_faces([(0, 0, 1, 1, 0.9, 0)], sizes=((1, 1),)))
    assert preview.shape == (1, 1, 3)


def test_many_faces_use_colours_in_turn(make_faces):
    faces = make_faces([(i, 10, i + 20, 40, 0.9, 0) for i in range(12)])
    assert len(numbered_preview(faces)) == 1
