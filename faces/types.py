"""What travels between detection, choice, alignment and the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .alignment import align

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


@dataclass(frozen=True, eq=False)
class Detection:
    """What a detector reports about one face of one picture, in that picture's pixels.

    landmarks: (5, 2) float32, left eye, right eye, nose, left and right mouth corner as seen in
    the picture. score: 0 to 1.
    """

    box: Box
    landmarks: np.ndarray
    score: float


@dataclass(frozen=True, eq=False)
class Face(Detection):
    """One detected face of a batch; image_index counts the batch's pictures from 0."""

    image_index: int

    @cached_property
    def area(self) -> float:
        """Size of the box in square pixels, never negative."""
        x1, y1, x2, y2 = self.box
        return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box: x, y in pixels."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of a batch of pictures together with the pictures (LIKENESS_FACES on the wire).

    images: each (H, W, 3) uint8 RGB. faces: largest first, or in the order of a choice. detector: which backend found
    them. A face's number for the user is its position here plus 1.
    """

    images: tuple[np.ndarray, ...]
    faces: tuple[Face, ...]
    detector: str

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)

    def __getitem__(self, position: int) -> Face:
        return self.faces[position]

    @property
    def pictures_without_face(self) -> tuple[int, ...]:
        """Indices, from 0, of the pictures that have no face here."""
        with_face = {face.image_index for face in self.faces}
        return tuple(index for index in range(len(self.images)) if index not in with_face)

    def select(self, positions: Sequence[int]) -> Faces:
        """These faces only, by position from 0 and in the order given; all pictures are kept."""
        return replace(self, faces=tuple(self.faces[position] for position in positions))

    def crops(self, size: int = 224) -> np.ndarray:
        """Aligned crops (k, size, size, 3) uint8 RGB, one per face in order (see `alignment.align`)."""
        crops = [align(self.images[face.image_index], face.landmarks, size) for face in self.faces]
        return np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)


def largest_first(faces: Iterable[Face]) -> tuple[Face, ...]:
    """Faces by falling size of the box; equal ones keep their order."""
    return tuple(sorted(faces, key=lambda face: -face.area))


def clip_box(box: Box, image: np.ndarray) -> Box:
    """The part of a box inside a picture (H, W, 3); of a box beside it, a line or a point on the edge is left."""
    height, width = map(float, image.shape[:2])
    x1, y1, x2, y2 = box
    return min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height)
