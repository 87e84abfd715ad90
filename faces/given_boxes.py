"""Faces from boxes that the user drew or another node found, for drawn or covered faces that no detector sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .alignment import TEMPLATE_112
from .types import Box, Face, Faces, clip_box, largest_first

# A detector's box in the frame of the 112 x 112 template. Measured with the bundled detector: the median over 31 faces
# of 14 photographs, made symmetric about the template's middle.
_BOX_CENTRE_112 = np.array([56.0, 62.8])
_BOX_SIDE_112 = math.sqrt(79.1 * 103.5)  # square root of the area, so that boxes of any shape fit

Boxes = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]]


def faces_from_boxes(images: Sequence[np.ndarray], boxes: Boxes) -> Faces:
    """Faces at ComfyUI bounding boxes, largest first, with landmarks at the usual places of an upright frontal face.

    images: each (H, W, 3) uint8 RGB. boxes: BOUNDING_BOX values {x, y, width, height[, score]} in pixels, x and y being
    the top left corner: one for every picture, a list for every picture, or a list of lists, one per picture.
    Raises ValueError for another number of lists than pictures, and for a box without size, with values that are no
    numbers, or that lies outside its picture.
    """
    faces = []
    for index, (image, frame) in enumerate(zip(images, _frames(boxes, len(images)), strict=True)):
        for number, box in enumerate(frame, start=1):
            faces.append(_face(image, index, box, f"box {number} of picture {index + 1}"))
    return Faces(tuple(images), largest_first(faces), "given boxes")


def landmarks_in_box(box: Box) -> np.ndarray:
    """Five landmarks (5, 2) float32 where a detector that reports this box (x1, y1, x2, y2) usually sees them."""
    x1, y1, x2, y2 = box
    scale = math.sqrt((x2 - x1) * (y2 - y1)) / _BOX_SIDE_112
    centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    return (centre + (TEMPLATE_112 - _BOX_CENTRE_112) * scale).astype(np.float32)


def _frames(boxes: Any, num_pictures: int) -> list[Sequence[Mapping[str, Any]]]:
    """One list of boxes per picture."""
    if isinstance(boxes, Mapping):
        boxes = [boxes]
    if not boxes or isinstance(boxes[0], Mapping):
        boxes = [boxes]
    if len(boxes) == 1:
        return [boxes[0]] * num_pictures
    if len(boxes) != num_pictures:
        raise ValueError(
            f"there are bounding boxes for {len(boxes)} pictures, but {num_pictures} pictures; give one list of boxes "
            "per picture, or one list for all"
        )
    return list(boxes)


def _face(image: np.ndarray, index: int, box: Mapping[str, Any], name: str) -> Face:
    try:
        x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        score = float(box.get("score", 1.0))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must have the numbers x, y, width and height, got {box!r}") from error
    if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
        raise ValueError(f"{name} has no size: width {width:g}, height {height:g}; draw it around the whole face")
    corners = (x, y, x + width, y + height)
    visible = Face(clip_box(corners, image), landmarks_in_box(corners), score, index)
    if visible.area == 0:
        rows, columns = image.shape[:2]
        raise ValueError(
            f"{name} (from {x:g}, {y:g} to {corners[2]:g}, {corners[3]:g}) lies outside the picture of "
            f"{columns} x {rows} pixels"
        )
    return visible
