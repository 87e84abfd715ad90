from __future__ import annotations

import numpy as np
import pytest
from likeness.faces.alignment import align, estimate_similarity
from likeness.faces.arcface import network_input
from likeness.faces.portraits import (
    BORDER,
    TEMPLATE_512,
    align_portrait,
    estimate_portrait,
    portrait_of,
    released_choice,
)


@pytest.fixture
def alignment(golden):
    """Golden 09: RGB picture, landmarks, the expected tensors as arrays, and which pixels of the portrait are there."""
    file = golden("pulid", "09_face_alignment")
    stride = file.metadata["config"]["stride"]
    inputs = {key: value.numpy() for key, value in file.inputs().items()}
    expected = {key: value.numpy() for key, value in file.expected().items()}
    return np.ascontiguousarray(inputs["image_bgr_uint8"][..., ::-1]), inputs["landmarks5"], expected, stride


@pytest.fixture
def random_landmarks():
    """`random_landmarks(seed, scatter)`: the template turned, scaled, shifted, and each point moved by `scatter`."""

    def make(seed: int, scatter: float) -> np.ndarray:
        random = np.random.default_rng(seed)
        angle, scale = random.normal() * 0.5, random.uniform(0.05, 2)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = TEMPLATE_512 + random.normal(size=(5, 2)) * scatter
        return moved @ (scale * rotation).T + random.uniform(0, 500, 2)

    return make


def test_golden_pulid_09_matrices(alignment):
    """Tolerance of the file: 1e-3 relative to the translation."""
    _, landmarks, expected, _ = alignment
    np.testing.assert_array_equal(TEMPLATE_512, expected["facexlib_template_512"])
    for got, name in ((estimate_portrait(landmarks), "facexlib"), (estimate_similarity(landmarks, 112), "arcface")):
        wanted = expected[f"{name}_affine_2x3"]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3 * np.abs(wanted[:, 2]).max())


def test_golden_pulid_09_crops(alignment):
    """One grey level, and on average far less."""
    picture, landmarks, expected, stride = alignment
    portrait, crop = align_portrait(picture, landmarks), align(picture, landmarks, 112)
    assert portrait.shape == (512, 512, 3)
    seen = portrait[::stride, ::stride]
    for got, name in ((seen, "aligned512_bgr_uint8_strided"), (crop, "arcface_crop112_bgr_uint8")):
        difference = np.abs(got[..., ::-1].astype(int) - expected[name])
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_golden_pulid_09_network_inputs(alignment):
    """0.008 is one grey level: the recogniser's crop, and the whole portrait where its detector saw no face."""
    picture, landmarks, expected, _ = alignment
    for crop, name in (
        (align(picture, landmarks, 112), "arcface_blob"),
        (align_portrait(picture, landmarks), "fallback_blob_from_aligned512"),
    ):
        np.testing.assert_allclose(network_input(crop[None]), expected[name], rtol=0, atol=0.008)


@pytest.mark.parametrize("scatter", [0.0, 1.0, 5.0, 20.0, 60.0])
def test_the_fit_is_the_one_of_opencv(random_landmarks, scatter):
    """Its estimator draws from a fixed seed, so it is a function of the landmarks; 60 is half an eye distance."""
    cv2 = pytest.importorskip("cv2")
    for seed in range(400):
        landmarks = random_landmarks(seed, scatter)
        expected = cv2.estimateAffinePartial2D(landmarks, TEMPLATE_512, method=cv2.LMEDS)[0]
        np.testing.assert_allclose(estimate_portrait(landmarks), expected, atol=1e-4 * np.abs(expected).max())


def test_a_landmark_that_contradicts_the_others_is_left_out(random_landmarks):
    landmarks = random_landmarks(0, 0.0)
    moved = landmarks.copy()
    moved[2] += 40
    np.testing.assert_allclose(estimate_portrait(moved), estimate_portrait(landmarks), atol=1e-2)


def test_portraits_of_another_size_show_the_same(astronaut):
    landmarks = np.float32([[205, 101.7], [246.8, 103.7], [224.7, 129], [201.7, 139.2], [245.3, 141.9]])
    np.testing.assert_array_equal(estimate_portrait(landmarks, 256) * 2, estimate_portrait(landmarks))
    assert align_portrait(astronaut, landmarks, 256).shape == (256, 256, 3)


def test_around_the_picture_is_facexlibs_grey():
    portrait = align_portrait(np.full((50, 50, 3), 255, np.uint8), TEMPLATE_512 - [400, 0])
    assert portrait[0, -1].tolist() == list(BORDER) == [132, 133, 135]


def test_portrait_and_recognition_crop_show_one_face(make_faces):
    faces = make_faces([(10, 20, 60, 80, 0.9, 0), (100, 20, 130, 60, 0.9, 0)])
    first, second = faces
    image, both = faces.images[0], portrait_of(faces, first)
    np.testing.assert_array_equal(both.crop, align_portrait(image, first.landmarks))
    np.testing.assert_array_equal(both.recognition, align(image, first.landmarks, 112))
    np.testing.assert_array_equal(portrait_of(faces, first, second).crop, both.crop)
    np.testing.assert_array_equal(portrait_of(faces, first, second).recognition, align(image, second.landmarks, 112))


def test_the_released_choice_may_mean_two_people(make_faces):
    rows = [(0, 0, 60, 60, 0.9, 0), (90, 40, 110, 60, 0.9, 0), (90, 40, 115, 65, 0.9, 1)]
    faces = make_faces(rows, ((100, 200), (100, 200)))
    portrait, recognised = released_choice(faces, 0)
    assert (portrait.box, recognised.box) == (rows[1][:4], rows[0][:4])
    assert released_choice(faces, 1) == (faces[2], faces[2])
    with pytest.raises(ValueError, match="picture 3 shows no face"):
        released_choice(faces, 2)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.full((5, 2), 30.0), "all lie in one place"),
        (np.zeros((4, 2)), "needs 5 landmarks"),
        (np.full((5, 2), np.nan), "not finite"),
    ],
)
def test_degenerate_landmarks_are_refused(landmarks, message):
    with pytest.raises(ValueError, match=message):
        align_portrait(np.zeros((20, 20, 3), np.uint8), landmarks)


def test_two_landmarks_in_one_place_still_give_a_portrait(random_landmarks):
    landmarks = random_landmarks(0, 0.0)
    landmarks[4] = landmarks[0]
    assert np.isfinite(estimate_portrait(landmarks)).all()
