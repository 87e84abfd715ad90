from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from likeness.faces.detection import find_faces, load_detector
from likeness.faces.types import Detection
from PIL import Image


def _assert_plausible(face: Detection) -> None:
    """Eyes above nose above mouth, left before right, everything inside the box."""
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float32
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    x1, y1, x2, y2 = face.box
    assert (face.landmarks >= (x1, y1)).all() and (face.landmarks <= (x2, y2)).all()
    assert 0.7 < face.score <= 1


def test_one_person_is_found_where_the_published_cascade_finds_her(detector, astronaut):
    """The numbers are those of the published code on the same weights and picture."""
    (face,) = detector.detect(astronaut)
    _assert_plausible(face)
    np.testing.assert_allclose(face.box, (181.05, 62.16, 267.75, 172.05), atol=0.02)
    expected = [(205.01, 101.73), (246.76, 103.71), (224.67, 128.97), (201.72, 139.25), (245.27, 141.86)]
    np.testing.assert_allclose(face.landmarks, expected, atol=0.02)


def test_six_people_are_found_largest_first(detector, six_people):
    faces = find_faces([six_people], detector)
    assert len(faces) == 6 and faces.detector == "bundled"
    for face in faces:
        _assert_plausible(face)
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    centres = sorted(round(face.centre[0], -1) for face in faces)
    assert centres == [110, 320, 520, 790, 960, 1180]


def test_a_batch_keeps_each_faces_picture(detector, astronaut, six_people):
    faces = find_faces([np.zeros((40, 60, 3), np.uint8), six_people, astronaut], detector)
    assert [sum(face.image_index == index for face in faces) for index in range(3)] == [0, 6, 1]
    assert faces.pictures_without_face == (0,)
    alone = find_faces([astronaut], detector)
    (own,) = [face for face in faces if face.image_index == 2]
    np.testing.assert_array_equal(own.landmarks, alone[0].landmarks)


def test_a_face_that_fills_its_picture_is_found_by_the_padded_retry(detector, astronaut):
    left, top = 185, 66
    tight = astronaut[top:168, left:263]
    assert detector.detect(tight) == []
    (face,) = find_faces([tight], detector)
    x1, y1, x2, y2 = face.box
    assert 0 <= x1 < x2 <= tight.shape[1] and 0 <= y1 < y2 <= tight.shape[0]
    (reference,) = detector.detect(astronaut)
    eye_distance = np.linalg.norm(reference.landmarks[1] - reference.landmarks[0])
    assert np.abs(face.landmarks + (left, top) - reference.landmarks).max() < 0.1 * eye_distance


def test_padded_results_are_shifted_and_only_boxes_clipped():
    class OnlyPadded:
        name = "test"

        def detect(self, image):
            assert image.dtype == np.uint8
            if image.shape == (101, 203, 3):
                return []
            assert image.shape == (151, 303, 3)  # int(0.25 · 101) = 25 and int(0.25 · 203) = 50 on either side
            assert (image[:25] == 128).all() and (image[:, 253:] == 128).all() and (image[25:126, 50:253] == 9).all()
            return [Detection((30.0, 20.0, 280.0, 90.0), np.float32([[30, 20]] * 5), 0.9)]

    (face,) = find_faces([np.full((101, 203, 3), 9, np.uint8)], OnlyPadded())
    assert face.box == (0.0, 0.0, 203.0, 65.0)
    assert face.landmarks.tolist() == [[-20.0, -5.0]] * 5


@pytest.mark.parametrize("margin", [0, 5, 10, 20])
def test_landmarks_of_tight_crops_stay_true(detector, astronaut, margin):
    """Cutting candidates at the edge, as the published code does, moves them by a quarter of the eye distance."""
    (reference,) = detector.detect(astronaut)
    x1, y1, x2, y2 = (round(side) for side in reference.box)
    crop = astronaut[y1 - margin : y2 + margin, x1 - margin : x2 + margin]
    (face,) = find_faces([crop], detector)
    eye_distance = np.linalg.norm(reference.landmarks[1] - reference.landmarks[0])
    assert np.abs(face.landmarks + (x1 - margin, y1 - margin) - reference.landmarks).max() < 0.12 * eye_distance


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (19, 19), (20, 20), (3, 4000)])
def test_tiny_pictures_give_no_face(detector, size):
    assert len(find_faces([np.full((*size, 3), 120, np.uint8)], detector)) == 0


def test_noise_gives_no_face(detector):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert detector.detect(noise) == []


def test_a_very_large_picture_costs_little_and_maps_back_to_its_pixels(detector, astronaut):
    large = np.full((6000, 8000, 3), 60, np.uint8)
    enlarged = np.array(Image.fromarray(astronaut).resize((4096, 4096), Image.Resampling.BICUBIC))
    large[1000:5096, 2000:6096] = enlarged
    start = time.perf_counter()
    (face,) = find_faces([large], detector)
    assert time.perf_counter() - start < 20  # about 1 s on one idle core
    (reference,) = detector.detect(astronaut)
    eye_distance = np.linalg.norm(reference.landmarks[1] - reference.landmarks[0])
    assert np.abs((face.landmarks - (2000, 1000)) / 8 - reference.landmarks).max() < 0.12 * eye_distance


def test_detecting_twice_gives_the_same_and_leaves_the_picture_alone(detector, astronaut):
    before = astronaut.copy()
    first, second = detector.detect(astronaut), detector.detect(astronaut[:, ::-1][:, ::-1])
    np.testing.assert_array_equal(first[0].landmarks, second[0].landmarks)
    np.testing.assert_array_equal(astronaut, before)


def test_detectors_are_loaded_by_name(tmp_path, scrfd_model):
    assert load_detector("bundled").name == "bundled"
    assert load_detector("auto", [tmp_path]).name == "bundled"
    with pytest.raises(ValueError, match="unknown face detector 'haar'; there are auto, bundled, insightface"):
        load_detector("haar")
    with pytest.raises(ValueError, match="det_10g.onnx"):
        load_detector("insightface", [tmp_path])
    folder = tmp_path / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "det_10g.onnx").write_bytes(scrfd_model())
    for name in ("auto", "insightface"):
        assert load_detector(name, [tmp_path]).name == "insightface buffalo_l"


def test_without_onnxruntime_auto_is_the_bundled_detector(tmp_path, scrfd_model, monkeypatch):
    (tmp_path / "det_10g.onnx").write_bytes(scrfd_model())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load_detector("auto", [tmp_path]).name == "bundled"
    with pytest.raises(ValueError, match="pip install onnxruntime`, or choose the bundled detector"):
        load_detector("insightface", [tmp_path])
