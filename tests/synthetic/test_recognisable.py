"""Real networks, which never saw this world, must find its faces and tell its people apart (docs/synthetic.md)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from likeness.synthetic import draw_scene, render
from likeness.synthetic import test_people as unseen_people


@pytest.fixture(scope="module")
def descriptor():
    """dlib's recogniser on dlib's own chip: (picture, face box) -> (128,)."""
    dlib = pytest.importorskip("dlib")
    found = importlib.util.find_spec("face_recognition_models")  # its import wants a package that is gone
    if found is None:
        pytest.skip("face_recognition_models is not installed")
    folder = Path(found.origin).parent / "models"
    points = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def describe(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        x1, y1, x2, y2 = box
        # dlib's boxes are square, smaller and lower
        half, x, y = 0.425 * (y2 - y1), (x1 + x2) / 2, (y1 + y2) / 2 + 0.08 * (y2 - y1)
        square = dlib.rectangle(int(x - half), int(y - half), int(x + half), int(y + half))
        return np.array(network.compute_face_descriptor(image, points(image, square)))

    return describe


def test_the_detector_finds_faces_of_64_pixels(small_scenes, pictures, faces_of):
    found = [len(faces) for faces in faces_of(pictures(small_scenes, 4))]
    assert np.mean([count == 1 for count in found]) >= 0.95


@pytest.mark.parametrize(("size", "enlarged"), [((64, 128), 4), ((128, 128), 4)])
def test_the_detector_finds_two_people(size, enlarged, pictures, faces_of):
    people = unseen_people(24, first=300)
    scenes = [draw_scene(people[row : row + 2], row, size) for row in range(0, 24, 2)]
    found = [min(len(faces), 2) for faces in faces_of(pictures(scenes, enlarged))]
    assert np.sum(found) >= 0.95 * 24 - 1  # one miss more: the sample is small


def test_true_boxes_and_landmarks_are_where_the_detector_sees_them(small_scenes, pictures, faces_of):
    drawn = render(small_scenes)
    overlaps, errors = [], []
    for row, faces in enumerate(faces_of(pictures(small_scenes[:12], 4))):
        true, seen = drawn.boxes[row, 0].numpy() * 4, np.array(faces[0].box)
        low, high = np.maximum(true[:2], seen[:2]), np.minimum(true[2:], seen[2:])
        shared = np.prod(high - low)
        overlaps.append(shared / (np.prod(true[2:] - true[:2]) + np.prod(seen[2:] - seen[:2]) - shared))
        points = drawn.landmarks[row, 0].numpy() * 4
        eyes = np.linalg.norm(points[1] - points[0])
        errors.append(np.linalg.norm(points - faces[0].landmarks, axis=1) / eyes)
    assert np.mean(overlaps) > 0.8
    assert np.median(errors) < 0.1


def test_a_recogniser_tells_people_apart(small_scenes, pictures, faces_of, descriptor):
    images = pictures(small_scenes, 4)
    rows = [(number, faces[0].box) for number, faces in enumerate(faces_of(images)) if len(faces)]
    described = np.stack([descriptor(images[number], box) for number, box in rows])
    who = np.array([small_scenes[number].people[0].seed for number, _ in rows])
    distances = np.linalg.norm(described[:, None] - described[None], axis=-1)
    pairs = np.triu_indices(len(who), 1)
    same = (who[:, None] == who[None])[pairs]
    apart = distances[pairs]
    assert (apart[same][:, None] < apart[~same][None]).mean() >= 0.97  # the AUC; 0.98 on the large sample of the docs
