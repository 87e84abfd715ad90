"""From five landmarks to an upright face crop: similarity transform and bilinear warp (spec, section 1, step 6)."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0 to 255
BLACK = (0, 0, 0)

# ArcFace's five-point template in a 112 x 112 crop, no half-pixel term: left eye, right eye, nose, mouth corners.
TEMPLATE_112 = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)], np.float64
)
TEMPLATE_112.setflags(write=False)

# Landmarks closer together than this (pixels, root mean square about their mean) say nothing about a face's pose.
_SMALLEST_SPREAD = 1e-3


def estimate_similarity(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift from landmarks to the template of a size x size crop.

    landmarks: (5, 2) pixels, left eye, right eye, nose, left and right mouth corner as seen. Returns (2, 3) float64
    that maps (x, y, 1) of the picture to crop pixels. A mirrored set is not unmirrored: the transform never reflects.
    Source: Umeyama 1991, equations 34 to 43.
    Raises ValueError for landmarks of another shape, not finite, all in one place or contradicting every pose.
    """
    return fit_similarity(checked_landmarks(landmarks), TEMPLATE_112 * (size / 112))


def checked_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Five landmarks (5, 2) as float64. Raises ValueError for another shape and for values that are not finite."""
    points = np.asarray(landmarks, np.float64)
    if points.shape != TEMPLATE_112.shape:
        raise ValueError(f"aligning a face needs 5 landmarks (x, y), got an array of shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("a face's landmarks hold values that are not finite numbers; detect the face again")
    return points


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform (2, 3) from points (n, 2) to points (n, 2); see `estimate_similarity`.

    Raises ValueError for landmarks all in one place or contradicting every pose.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source, target = source - source_mean, target - target_mean
    variance = (source**2).sum(axis=1).mean()
    if variance <= _SMALLEST_SPREAD**2:
        raise ValueError("a face's five landmarks all lie in one place; detect the face again or give a larger box")
    u, singular, vt = np.linalg.svd(target.T @ source / len(source))
    # sign(det U · det V) is the sign of det Σ where that is not 0, and also right for landmarks on one line.
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = (singular @ signs) / variance
    if scale * np.sqrt(variance) <= 1e-6 * np.abs(target).max():
        raise ValueError("a face's five landmarks do not resemble a face in any pose; detect the face again")
    linear = scale * (u * signs) @ vt
    return np.hstack([linear, (target_mean - linear @ source_mean)[:, None]])


def align(image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """The upright crop (size, size, 3) uint8 of a face, black where it reaches over the picture's edge.

    image: (H, W, 3) uint8. landmarks: (5, 2) pixels (see `estimate_similarity`, whose errors this raises too).
    """
    return warp(image, estimate_similarity(landmarks, size), size)


def warp(image: np.ndarray, matrix: np.ndarray, size: int, outside: Colour = BLACK) -> np.ndarray:
    """The (size, size, 3) uint8 picture whose pixels a (2, 3) matrix says where to find; see `sample_bilinear`."""
    inverse = np.linalg.inv(matrix[:, :2])
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1) - matrix[:, 2]  # (size, size, 2) as x, y
    return sample_bilinear(image, grid @ inverse.T, outside)


def resize_bilinear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 at another size (height, width, 3), pixel areas on pixel areas, without antialias."""
    rows, columns = image.shape[:2]
    x = ((np.arange(width) + 0.5) * (columns / width) - 0.5).clip(0, columns - 1)
    y = ((np.arange(height) + 0.5) * (rows / height) - 0.5).clip(0, rows - 1)
    return sample_bilinear(image, np.stack(np.meshgrid(x, y), axis=-1))


def sample_bilinear(image: np.ndarray, points: np.ndarray, outside: Colour = BLACK) -> np.ndarray:
    """Bilinear values (..., 3) uint8 of a picture at points (..., 2) as x, y, with one colour all around the picture.

    image: (H, W, 3) uint8. Whole numbers are pixel centres, the first one is 0.
    """
    height, width = image.shape[:2]
    points = points.clip(-2, (width + 1, height + 1))  # far outside is as just outside, and fits an index
    corner = np.floor(points).astype(np.intp)
    fraction = points - corner
    border = np.array(outside, np.uint8)
    total = np.zeros((*points.shape[:-1], image.shape[2]))
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = corner[..., 0] + dx, corner[..., 1] + dy
            weight = np.abs(1 - dx - fraction[..., 0]) * np.abs(1 - dy - fraction[..., 1])
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            pixels = image[y.clip(0, height - 1), x.clip(0, width - 1)]
            total += weight[..., None] * np.where(inside[..., None], pixels, border)
    return np.rint(total).astype(np.uint8)
