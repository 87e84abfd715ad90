"""Which of the faces found are meant."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from .types import Face, Faces

RULES = ("largest", "left to right", "top to bottom", "centre", "score", "by number")


def choose_faces(faces: Faces, rule: str, count: int, numbers: str = "") -> Faces:
    """The first `count` faces by a rule, in the rule's order; "by number" takes exactly those that `numbers` lists.

    Rules rank over the faces of all pictures of the batch together. Positions ("left to right", "top to bottom",
    "centre") are those of the box's centre relative to the size of its own picture; equal faces keep the order that
    they have in `faces`. numbers: as drawn on the preview, from 1, such as "1, 3-4", taken in the order written.
    Raises ValueError for an unknown rule, a count below 1, no face at all, fewer faces than asked for, and numbers
    that are ill-formed, repeated or belong to no face.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r} for choosing faces; the rules are {', '.join(RULES)}")
    _require_a_face(faces)
    if rule == "by number":
        return faces.select([number - 1 for number in _parse_numbers(numbers, len(faces))])
    if count < 1:
        raise ValueError(f"asked for {count} faces; ask for at least 1")
    if len(faces) < count:
        raise ValueError(
            f"asked for {count} faces, found {len(faces)} in {_pictures(faces)}{_faceless(faces)}; "
            "ask for fewer, or give a picture that shows all of them clearly"
        )
    key = _ranking(faces, rule)
    ranked = sorted(range(len(faces)), key=lambda position: key(faces[position]))
    return faces.select(ranked[:count])


def _ranking(faces: Faces, rule: str) -> Callable[[Face], float]:
    """The value by which a rule sorts, lowest first."""

    def relative_centre(face: Face) -> tuple[float, float]:
        height, width = faces.images[face.image_index].shape[:2]
        return face.centre[0] / width, face.centre[1] / height

    return {
        "largest": lambda face: -face.area,
        "left to right": lambda face: relative_centre(face)[0],
        "top to bottom": lambda face: relative_centre(face)[1],
        "centre": lambda face: math.dist(relative_centre(face), (0.5, 0.5)),
        "score": lambda face: -face.score,
    }[rule]


def _parse_numbers(text: str, found: int) -> list[int]:
    numbers: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if match is None:
            raise ValueError(f"face numbers must look like 1, 3-4 and not {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the face numbers {part!r} run backwards; write {last}-{first}")
        if first < 1 or last > found:
            raise ValueError(
                f"asked for face {part}, but the faces found are numbered 1 to {found}; "
                "look at the preview of the detection"
            )
        numbers.extend(range(first, last + 1))
    repeated = sorted({number for number in numbers if numbers.count(number) > 1})
    if repeated:
        raise ValueError(f"face {repeated[0]} is listed twice in {text!r}; name each face once")
    return numbers


def _require_a_face(faces: Faces) -> None:
    if len(faces) == 0:
        sizes = dict.fromkeys(f"{image.shape[1]} x {image.shape[0]}" for image in faces.images)
        raise ValueError(
            f"no face was found in {_pictures(faces)} ({', '.join(sizes)} pixels, detector: {faces.detector}). Use a "
            "picture where the whole face is visible and at least about 40 pixels wide, try another detector, or mark "
            "a drawn or covered face with a bounding box"
        )


def _pictures(faces: Faces) -> str:
    count = len(faces.images)
    return "the picture" if count == 1 else f"pictures 1 to {count}"


def _faceless(faces: Faces) -> str:
    without = [str(index + 1) for index in faces.pictures_without_face]
    return f" (none in picture {', '.join(without)})" if without else ""
