"""One face from each reference photo of a person, and what is odd about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..faces.types import Face, Faces
from .previews import counted

ERROR, SKIP, LEAVE_OUT = NO_FACE = ("error", "skip picture", "leave person out")
SMALLEST_FACE = 112  # pixels: the side of the picture that recognition networks read
SAME_PERSON = 0.2  # cosine of CurricularFace or ArcFace embeddings; photos of one person lie well above


@dataclass(frozen=True, eq=False)
class Reference:
    """The chosen face of one picture."""

    faces: Faces
    face: Face
    name: str

    @property
    def image_index(self) -> int:
        """Which of the pictures of `faces` it is in."""
        return self.face.image_index


@dataclass
class References:
    """The chosen faces of one person, and warnings."""

    chosen: list[Reference] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """What messages call the pictures."""
        return [reference.name for reference in self.chosen]

    def crops(self, size: int) -> np.ndarray:
        """The faces upright (k, size, size, 3) uint8 RGB, as UniPortrait and UniID see them."""
        return np.concatenate([replace(one.faces, faces=(one.face,)).crops(size) for one in self.chosen])


def choose_references(inputs: Mapping[str, Faces], no_face: str) -> References:
    """The largest face of each picture of each input; none only if that is allowed.

    no_face is one of `NO_FACE`.

    Raises:
        ValueError: a picture without a face, or, if such are skipped, no picture with one.
    """
    found, faceless = References(), []
    for number, faces in enumerate(inputs.values(), 1):
        for index in range(len(faces.images)):
            name = _picture_name(inputs, number, index)
            shown = [(position, face) for position, face in enumerate(faces, 1) if face.image_index == index]
            if not shown:
                faceless.append(name)
                continue
            position, face = max(shown, key=lambda pair: pair[1].area)
            found.chosen.append(Reference(faces, face, name))
            found.warnings += _oddities(name, position, face, len(shown))
    if (faceless and no_face == ERROR) or (not found.chosen and not (faceless and no_face == LEAVE_OUT)):
        raise ValueError(_no_face_message(faceless, skipped=no_face == SKIP))
    found.warnings += [f"{name} shows no face and was skipped" for name in faceless]
    return found


def find_strangers(embeddings: torch.Tensor, names: Sequence[str]) -> list[str]:
    """Warnings about pairs that look like different people; embeddings (k, d) of unit length."""
    similarities = embeddings @ embeddings.T
    return [
        f"{names[first]} and {names[second]} look like different people (similarity {value:.2f}; below {SAME_PERSON}). "
        "All photos should show one person"
        for first in range(len(names))
        for second in range(first + 1, len(names))
        if (value := float(similarities[first, second])) < SAME_PERSON
    ]


def _picture_name(inputs: Mapping[str, Faces], number: int, index: int) -> str:
    if len(inputs) == 1:
        return f"picture {index + 1}"
    if all(len(faces.images) == 1 for faces in inputs.values()):
        return f"picture {number}"
    return f"picture {index + 1} of input {number}"


def _oddities(name: str, position: int, face: Face, num_shown: int) -> list[str]:
    found = []
    if num_shown > 1:
        found.append(
            f"{name} shows {num_shown} faces; used number {position}, the largest. Choose with Pick Faces if another "
            "one is meant"
        )
    x1, y1, x2, y2 = face.box
    side = round(max(x2 - x1, y2 - y1))
    if side < SMALLEST_FACE:
        found.append(
            f"the face in {name} is only {side} pixels large; below {SMALLEST_FACE} the likeness suffers. Use a larger "
            "photo"
        )
    return found


def _no_face_message(faceless: Sequence[str], skipped: bool) -> str:
    if not faceless:
        return "Encode Identity: no picture is connected. Connect Detect Faces."
    names = ", ".join(faceless)
    if skipped:
        return (
            f"Encode Identity: no face in {'any of ' if len(faceless) > 1 else ''}{counted(len(faceless), 'picture')} "
            f"({names}), so nothing is left after skipping. Use photos where the whole face is visible."
        )
    return (
        f"Encode Identity: no face in {names}. Use a photo where the whole face is visible, mark a drawn face with "
        "Faces from Boxes, or set no_face to skip picture or leave person out."
    )
