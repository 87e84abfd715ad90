"""PuLID's two views of a face: a 512 px portrait for the parser, a 112 px crop to recognise (docs/pulid.md, 1.1, 1.2).

One face decides both. The released system asks two detectors, which may mean two people of one picture; how it then
chooses stands in `released_choice`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .alignment import Colour, align, checked_landmarks, fit_similarity, warp
from .arcface import SIZE as RECOGNITION_SIZE
from .types import Face, Faces

PORTRAIT_SIZE = 512
# The five landmarks of FFHQ's crops at 512 x 512, as facexlib has them.
TEMPLATE_512 = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ],
    np.float64,
)
TEMPLATE_512.setflags(write=False)
BORDER: Colour = (132, 133, 135)  # around the picture; the released code writes it as BGR

# Least median of squares (Rousseeuw 1984) fits pairs of points and takes the fit with the smallest median error.
# OpenCV, which the released code asks, draws the pairs at random from a fixed seed: of five points always these, the
# first of equally good ones winning. All ten pairs would give another crop for one face in fifty.
_PAIRS = ((0, 4), (0, 3), (1, 2), (1, 0), (1, 4), (3, 1))
_INLIER_DEVIATIONS = 2.5 * 1.4826 * (1 + 5 / (5 - 2))  # standard deviations, estimated from the median of five errors
_SMALLEST_DEVIATION = 0.001  # pixels


@dataclass(frozen=True, eq=False)
class Portrait:
    """What PuLID sees of one reference.

    crop: (512, 512, 3) uint8 RGB, upright, head and hair. recognition: (112, 112, 3) uint8 RGB, the face alone.
    """

    crop: np.ndarray
    recognition: np.ndarray


def portrait_of(faces: Faces, face: Face, recognised: Face | None = None) -> Portrait:
    """The views of one face of these pictures; recognised: another face for recognition, see `released_choice`.

    Raises ValueError for landmarks that fit no face.
    """
    recognised = recognised or face
    return Portrait(
        align_portrait(faces.images[face.image_index], face.landmarks),
        align(faces.images[recognised.image_index], recognised.landmarks, RECOGNITION_SIZE),
    )


def released_choice(faces: Faces, image_index: int) -> tuple[Face, Face]:
    """The faces of a picture that the released code takes: the most central as portrait, the largest to recognise.

    Distances are in pixels between the centres of box and picture; of equal faces the first one counts.
    Raises ValueError for a picture without a face.
    """
    shown = [face for face in faces if face.image_index == image_index]
    if not shown:
        raise ValueError(f"picture {image_index + 1} shows no face; use a photo where the whole face is visible")
    height, width = faces.images[image_index].shape[:2]
    central = min(shown, key=lambda face: math.dist(face.centre, (width / 2, height / 2)))
    return central, max(shown, key=lambda face: face.area)


def align_portrait(image: np.ndarray, landmarks: np.ndarray, size: int = PORTRAIT_SIZE) -> np.ndarray:
    """The upright portrait (size, size, 3) uint8 of a face, grey where it reaches over the picture's edge.

    image: (H, W, 3) uint8 RGB. landmarks: (5, 2) pixels (see `estimate_portrait`, whose errors this raises too).
    """
    return warp(image, estimate_portrait(landmarks, size), size, BORDER)


def estimate_portrait(landmarks: np.ndarray, size: int = PORTRAIT_SIZE) -> np.ndarray:
    """Rotation, uniform scale and shift (2, 3) float64 from landmarks to the portrait's template.

    landmarks: (5, 2) pixels, left eye, right eye, nose, left and right mouth corner as seen. A landmark that
    contradicts the others, as of a turned head, is left out: the fit over the rest is by least squares.
    Raises ValueError for landmarks of another shape, not finite, all in one place or contradicting every pose.
    """
    target = TEMPLATE_512.astype(np.float32).astype(np.float64)  # in single precision, as OpenCV has both
    source = checked_landmarks(landmarks).astype(np.float32).astype(np.float64)
    errors = min((_squared_errors(source, target, pair) for pair in _PAIRS), key=np.median)
    deviation = max(_INLIER_DEVIATIONS * math.sqrt(np.median(errors)), _SMALLEST_DEVIATION)
    inliers = errors <= deviation**2
    return fit_similarity(source[inliers], target[inliers]) * (size / PORTRAIT_SIZE)


def _squared_errors(source: np.ndarray, target: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    """Squared distances (5,) to the target after the similarity that takes these two points to their places."""
    first, second = pair
    step = source[second] - source[first]
    length = step @ step
    if length == 0:  # two landmarks in one place give no direction
        return np.full(len(source), np.inf)
    wanted = target[second] - target[first]
    along, across = step @ wanted / length, (step[0] * wanted[1] - step[1] * wanted[0]) / length
    linear = np.array([[along, -across], [across, along]])
    return ((((source - source[first]) @ linear.T + target[first]) - target) ** 2).sum(axis=1)
