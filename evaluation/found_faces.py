"""Faces of generated pictures and reference photos, with what each judge makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..faces.detection import Detector, find_faces
from ..faces.types import Face
from .judges.judge import Judge
from .pictures import Reference, load_pixels

AUTOMATIC_UPSCALE = 0
SHORT_SIDE = 256  # pixels that automatic upscaling aims at; below, detectors miss half of the faces
MOST_UPSCALE = 8


@dataclass(frozen=True, eq=False)
class FoundFaces:
    """The faces of one picture.

    faces: largest first, in the picture's own pixels. embeddings: judge -> (k, d) of unit length.
    """

    faces: tuple[Face, ...]
    embeddings: Mapping[str, np.ndarray]


def upscale_factor(image: np.ndarray, upscale: int = AUTOMATIC_UPSCALE) -> int:
    """How many times a picture is enlarged before its faces are looked for.

    Automatic (0): the smallest whole number that brings the short side to 256 pixels, at most 8. Raises ValueError for
    another setting than 0 to 8.
    """
    if not 0 <= upscale <= MOST_UPSCALE:
        raise ValueError(f"upscale must be 0 (automatic) or 1 to {MOST_UPSCALE}, got {upscale}")
    if upscale:
        return upscale
    return min(max(1, math.ceil(SHORT_SIDE / min(image.shape[:2]))), MOST_UPSCALE)


def look_at(
    images: Sequence[np.ndarray], detector: Detector, judges: Sequence[Judge], upscale: int = AUTOMATIC_UPSCALE
) -> list[FoundFaces]:
    """The faces of each picture (H, W, 3) uint8 RGB and their embeddings; judges see all faces in one batch.

    Detector and judges work on the enlarged picture (bicubic), since enlarging twice would blur twice.
    """
    factors = [upscale_factor(image, upscale) for image in images]
    enlarged = [_enlarged(image, factor) for image, factor in zip(images, factors, strict=True)]
    found = find_faces(enlarged, detector).faces
    embeddings = {judge.name: judge.embed(enlarged, found) for judge in judges}
    results = []
    for index, factor in enumerate(factors):
        rows = [row for row, face in enumerate(found) if face.image_index == index]
        results.append(
            FoundFaces(
                tuple(_shrunk(found[row], factor) for row in rows),
                {name: vectors[rows] for name, vectors in embeddings.items()},
            )
        )
    return results


def embed_references(
    references: Sequence[Reference], detector: Detector, judges: Sequence[Judge], upscale: int = AUTOMATIC_UPSCALE
) -> dict[Reference, dict[str, np.ndarray]]:
    """For each reference and judge the embeddings (p, d) of the largest faces of its p photos.

    Raises ValueError naming person and photo where no face is found, or a person without photos.
    """
    embedded = {}
    for reference in references:
        if not reference.photos:
            raise ValueError(f"there is no reference photo of {reference.person}")
        found = look_at([load_pixels(photo) for photo in reference.photos], detector, judges, upscale)
        for number, (photo, faces) in enumerate(zip(reference.photos, found, strict=True), 1):
            if not faces.faces:
                name = f"photo {number}" if isinstance(photo, np.ndarray) else str(photo)
                raise ValueError(
                    f"no face was found in the reference of {reference.person} ({name}, detector: {detector.name}); "
                    "nothing can be compared to it"
                )
        embedded[reference] = {
            judge.name: np.stack([faces.embeddings[judge.name][0] for faces in found]) for judge in judges
        }
    return embedded


def _enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return image
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


def _shrunk(face: Face, factor: int) -> Face:
    """The face in pixels of the picture before it was enlarged; the picture's number becomes 0."""
    x1, y1, x2, y2 = (side / factor for side in face.box)
    return replace(face, box=(x1, y1, x2, y2), landmarks=face.landmarks / factor, image_index=0)
