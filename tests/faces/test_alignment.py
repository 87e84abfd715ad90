from __future__ import annotations

import numpy as np
import pytest
from likeness.faces.alignment import TEMPLATE_112, align, estimate_similarity


def test_golden_uniportrait_alignment_matrices(golden):
    """Tolerance of the file: 1e-3, since translations reach thousands of pixels."""
    file = golden("uniportrait", "face_alignment")
    for case in file.cases() or [None]:
        size = file.metadata["config"]["image_size"]
        expected = file.expected(case)["matrices"].numpy()
        got = np.stack([estimate_similarity(points, size) for points in file.inputs(case)["landmarks"].numpy()])
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_golden_uniportrait_alignment_crop(golden):
    """One grey level: the reference warps in fixed point."""
    file = golden("uniportrait", "face_alignment")
    for case in file.cases() or [None]:
        inputs, expected = file.inputs(case), file.expected(case)["crop_hwc"].numpy()
        crop = align(inputs["image_hwc"].numpy(), inputs["image_landmarks"].numpy(), expected.shape[0])
        assert crop.dtype == np.uint8 and crop.shape == expected.shape
        difference = np.abs(crop.astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.01


@pytest.mark.parametrize("size", [112, 224, 336, 512])
def test_crop_agrees_with_opencv(astronaut, size):
    cv2 = pytest.importorskip("cv2")
    landmarks = np.float32([[205, 101.7], [246.8, 103.7], [224.7, 129], [201.7, 139.2], [245.3, 141.9]])
    matrix = estimate_similarity(landmarks, size)
    expected = cv2.warpAffine(astronaut, matrix, (size, size), borderValue=0.0)
    # OpenCV rounds positions to 1/32 pixel, which shows at sharp edges: bounded on average, and at nearly every pixel.
    difference = np.abs(align(astronaut, landmarks, size).astype(int) - expected)
    assert difference.mean() < 0.5 and np.quantile(difference, 0.99) <= 3


def test_landmarks_land_on_the_template_of_every_size():
    angle, scale, shift = 0.7, 3.3, np.array([400.0, -50.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = TEMPLATE_112 @ (scale * rotation).T + shift
    for size in (112, 224, 512):
        matrix = estimate_similarity(landmarks, size)
        np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], TEMPLATE_112 * size / 112, atol=1e-9)


def test_template_landmarks_give_the_picture_itself():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    np.testing.assert_array_equal(align(image, TEMPLATE_112 * 2, 224), image)


def test_mirrored_landmarks_are_never_reflected():
    matrix = estimate_similarity(TEMPLATE_112 * [-1, 1] + [200, 0] + np.eye(5, 2) * 9, 224)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_landmarks_on_one_line_still_give_a_rotation():
    points = np.column_stack([np.arange(5.0), 2 * np.arange(5.0)])
    matrix = estimate_similarity(points, 112)
    assert np.isfinite(matrix).all() and np.linalg.det(matrix[:, :2]) > 0


def test_outside_the_picture_is_black():
    image = np.full((50, 50, 3), 255, np.uint8)
    crop = align(image, TEMPLATE_112 + [1000, 0], 112)
    assert crop.max() == 0
    assert align(image, TEMPLATE_112 - [62, 0], 112)[20, 70:].min() == 255


def test_one_pixel_picture_can_be_aligned():
    assert align(np.full((1, 1, 3), 7, np.uint8), TEMPLATE_112, 112)[0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.full((5, 2), 30.0), "all lie in one place"),
        (np.zeros((4, 2)), "needs 5 landmarks"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.array([(0, 0), (0, 0), (0, 0), (0, 0), (np.inf, 1)]), "not finite"),
    ],
)
def test_degenerate_landmarks_are_refused(landmarks, message):
    with pytest.raises(ValueError, match=message):
        estimate_similarity(landmarks, 224)
