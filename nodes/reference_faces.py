"""One face from each reference photo of a person, and what is odd about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..faces.types import Face, Faces
from .previews import counted

SMALLEST_FACE = 112  # pixels: the side of the picture that the recognition backbone reads
SAME_PERSON = 0.2  # cosine of CurricularFace embeddings; photos of one person lie well above


@dataclass
class References:
    """The chosen faces of one person: aligned crops (224, 224, 3) uint8, a name for each, and warnings."""

    crops: list[np.ndarray] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def choose_references(inputs: Mapping[str, Faces], skip_faceless: bool) -> References:
    """The largest face of each picture of each input.

    Raises:
        ValueError: a picture without a face, or, with `skip_faceless`, no picture with one.
    """
    chosen, faceless = References(), []
    for number, faces in enumerate(inputs.values(), 1):
        for index in range(len(faces.images)):
            name = _picture_name(inputs, number, index)
            shown = [(position, face) for position, face in enumerate(faces, 1) if face.image_index == index]
            if not shown:
                faceless.append(name)
                continue
            position, face = max(shown, key=lambda pair: pair[1].area)
            chosen.crops.append(faces.select([position - 1]).crops()[0])
            chosen.names.append(name)
            chosen.warnings += _oddities(name, position, face, len(shown))
    if not chosen.crops or (faceless and not skip_faceless):
        raise ValueError(_no_face_message(faceless, skip_faceless))
    chosen.warnings += [f"{name} shows no face and was skipped" for name in faceless]
    return chosen


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
        "Faces from Boxes, or set no_face to skip picture."
    )
