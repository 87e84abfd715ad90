"""Which part of a picture a training size shows.

It is a function of the picture's size and boxes alone, so that caches stay valid.

The picture is scaled until it just covers the size, and the window slides along the one side that is left over:

1. From the middle it moves no further than it takes to hold all boxes whole.
2. Where they do not fit together, it is the window that holds most boxes whole; of those, the one that shows most of
   the area of all boxes; of those, the one closest to the middle.

A face is kept when at least three quarters of its box are inside. `DataSettings.cut_faces` says what becomes of a
picture that loses a face so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .records import Box

Size = tuple[int, int]  # width, height

KEPT_SHARE = 0.75  # of a box's area inside the window
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CropWindow:
    """A window of a picture, in its pixels, that is scaled to `size`; kept: numbers of the faces inside."""

    box: Box
    size: Size
    kept: tuple[int, ...]

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in pixels of the picture as pixels of the cut and scaled one; both count from the edge."""
        x1, y1, x2, y2 = self.box
        scale = np.array([self.size[0] / (x2 - x1), self.size[1] / (y2 - y1)])
        return (np.asarray(points, np.float64) - (x1, y1)) * scale

    def cut_boxes(self, boxes: Sequence[Box]) -> np.ndarray:
        """Boxes (k, 4) float64 after cutting and scaling, clipped to the window."""
        corners = self.transform(np.array(boxes, np.float64).reshape(-1, 2, 2))
        return corners.clip(0, self.size).reshape(-1, 4)

    def cut_picture(self, picture: np.ndarray) -> np.ndarray:
        """The window of a picture (H, W, 3) uint8 at its size (h, w, 3), with Lanczos filtering."""
        whole = (0.0, 0.0, float(picture.shape[1]), float(picture.shape[0]))
        if self.box == whole and self.size == picture.shape[1::-1]:
            return picture
        return np.array(Image.fromarray(picture).resize(self.size, Image.Resampling.LANCZOS, box=self.box))

    def cut_labels(self, labels: np.ndarray) -> np.ndarray:
        """The window of a label map (H, W) uint8 at its size (h, w), each pixel the label nearest to it."""
        return np.array(Image.fromarray(labels).resize(self.size, Image.Resampling.NEAREST, box=self.box))


def crop_window(picture_size: Size, boxes: Sequence[Box], size: Size) -> CropWindow:
    """The window of a picture for a training size (see the rule above)."""
    width, height = picture_size
    scale = max(size[0] / width, size[1] / height)
    window = (min(size[0] / scale, width), min(size[1] / scale, height))
    axis = 0 if width - window[0] > height - window[1] else 1
    inside = [_clip(box, picture_size) for box in boxes]
    start = _start(picture_size[axis], window[axis], [(box[axis], box[axis + 2]) for box in inside], inside)
    x, y = (start, 0.0) if axis == 0 else (0.0, start)
    # Min: the sum may exceed the picture by a rounding error, which Pillow refuses.
    box = (x, y, min(x + window[0], float(width)), min(y + window[1], float(height)))
    return CropWindow(box, size, tuple(number for number, face in enumerate(inside) if _share(face, box) >= KEPT_SHARE))


def nearest_size(picture_size: Size, sizes: Sequence[Size]) -> int:
    """The number of the size whose aspect ratio is nearest to the picture's, by the ratio of the ratios."""
    ratio = math.log(picture_size[0] / picture_size[1])
    return min(range(len(sizes)), key=lambda number: abs(math.log(sizes[number][0] / sizes[number][1]) - ratio))


def box_masks(boxes: np.ndarray, size: Size) -> np.ndarray:
    """(k, h, w) bool, true for pixels with their centre in box k (k, 4); a small box keeps the pixel in its middle."""
    masks = np.zeros((len(boxes), size[1], size[0]), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        columns, rows = _pixels(x1, x2, size[0]), _pixels(y1, y2, size[1])
        mask[rows, columns] = True
    return masks


def _pixels(first: float, last: float, count: int) -> slice:
    start, stop = math.ceil(first - 0.5), math.ceil(last - 0.5)
    if start >= stop:
        start = min(max(int((first + last) / 2), 0), count - 1)
        stop = start + 1
    return slice(max(start, 0), min(stop, count))


def _start(length: float, window: float, spans: Sequence[tuple[float, float]], boxes: Sequence[Box]) -> float:
    """Where the window begins on the side that is left over; `spans` are the boxes' extents on it."""
    last, middle = length - window, (length - window) / 2
    if not spans or last <= 0:
        return max(middle, 0.0)
    low, high = max(end for _, end in spans) - window, min(begin for begin, _ in spans)
    if low <= high + _TOLERANCE:
        return min(max(min(max(middle, low), high), 0.0), last)
    # Best windows begin with a box or end with one: between such places nothing is gained.
    starts = {middle, *(begin for begin, _ in spans), *(end - window for _, end in spans)}
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]

    def merit(start: float) -> tuple[int, float, float, float]:
        shares = [_overlap(span, (start, start + window)) for span in spans]
        whole = sum(share >= 1 - _TOLERANCE for share in shares)
        shown = sum(share * area for share, area in zip(shares, areas, strict=True))
        return whole, round(shown, 3), -abs(start - middle), -start

    return max((min(max(start, 0.0), last) for start in starts), key=merit)


def _overlap(span: tuple[float, float], window: tuple[float, float]) -> float:
    length = span[1] - span[0]
    return max(min(span[1], window[1]) - max(span[0], window[0]), 0.0) / length if length > 0 else 0.0


def _share(face: Box, window: Box) -> float:
    return _overlap((face[0], face[2]), (window[0], window[2])) * _overlap((face[1], face[3]), (window[1], window[3]))


def _clip(box: Box, picture_size: Size) -> Box:
    width, height = picture_size
    x1, y1, x2, y2 = box
    return (min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height))
