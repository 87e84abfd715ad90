"""Unseen people as the table meets them: reference photographs, found and encoded as a user's would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..faces.alignment import align
from ..faces.detection import Detector, find_faces
from ..synthetic.people import test_people
from ..synthetic.render import render
from ..synthetic.scene import draw_reference, draw_scene
from ..trainer.data.samples import CROP_SIZE

PHOTO_SIDE = 256
PHOTOS = 4


@dataclass(frozen=True)
class Sitter:
    """A test person: photographs (H, W, 3) uint8, the first a plain portrait, and the aligned crop of each."""

    name: str
    photos: tuple[np.ndarray, ...]
    crops: tuple[np.ndarray, ...]


def sitters(count: int, detector: Detector, level: str) -> list[Sitter]:
    """So many test people. A photo in which no face is found makes way for another, as a user would choose one."""
    return [_sitter(seed, detector, level) for seed in test_people(count)]


def drawn_photo(person: int, number: int, level: str) -> np.ndarray:
    """Photograph of a number of a person (PHOTO_SIDE, PHOTO_SIDE, 3) uint8; 0 is a plain portrait."""
    size = (PHOTO_SIDE, PHOTO_SIDE)
    scene = draw_reference(person, 0, size) if number == 0 else draw_scene((person,), number, size, level)
    return render([scene]).pixels()[0]


def _sitter(person: int, detector: Detector, level: str) -> Sitter:
    photos: list[np.ndarray] = []
    crops: list[np.ndarray] = []
    number = 0
    while len(photos) < PHOTOS:
        photo = drawn_photo(person, number, level)
        number += 1
        faces = find_faces([photo], detector)
        if faces.faces:
            photos.append(photo)
            crops.append(align(photo, faces.faces[0].landmarks, CROP_SIZE))
    return Sitter(str(person), tuple(photos), tuple(crops))


def stacked(crops: Sequence[np.ndarray]) -> torch.Tensor:
    """Crops of one person as the encoders take them: (k, 224, 224, 3) uint8."""
    return torch.from_numpy(np.stack(crops))
