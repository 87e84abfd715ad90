from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from likeness.faces.alignment import align


def test_faces_behave_like_a_sequence(make_faces):
    faces = make_faces([(0, 0, 10, 10, 0.9, 0), (0, 0, 8, 8, 0.8, 1), (0, 0, 5, 5, 0.7, 1)], sizes=((20, 20),) * 3)
    assert len(faces) == 3 and [face.score for face in faces] == [0.9, 0.8, 0.7] and faces[1].score == 0.8
    assert [face.score for face in faces.select([2, 0])] == [0.7, 0.9]
    assert faces.pictures_without_face == (2,) and faces.select([0]).pictures_without_face == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        faces[0].score = 1.0


def test_crops_come_from_each_faces_own_picture(make_faces):
    faces = make_faces([(0, 0, 50, 50, 0.9, 1), (0, 0, 40, 40, 0.8, 0)], sizes=((60, 60), (60, 60)))
    faces.images[1][:] = 200
    crops = faces.crops(112)
    assert crops.shape == (2, 112, 112, 3) and crops.dtype == np.uint8
    assert crops[0].max() == 200 and crops[1].max() == 90
    np.testing.assert_array_equal(crops[0], align(faces.images[1], faces[0].landmarks, 112))
    assert faces.crops().shape == (2, 224, 224, 3) and faces.select([]).crops(112).shape == (0, 112, 112, 3)
