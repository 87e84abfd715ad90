"""Whether two people of a picture are drawn as different as they are, by the colours of skin and hair.

A recogniser sees little in faces of 40 pixels; what colour they are, they show. Two people blended into one get equal
colours, whichever of them is meant where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..evaluation.found_faces import look_at
from ..evaluation.intervals import Estimate, estimate_mean
from ..evaluation.pictures import Picture, load_pixels
from ..evaluation.results import Results
from ..faces.detection import Detector

# Parts of a face's box, as shares of its sides: left, top, right, bottom.
SKIN, HAIR = (0.3, 0.4, 0.7, 0.7), (0.25, -0.12, 0.75, 0.06)
LEAST_DIFFERENCE = 0.25  # between two people's colours, from 0 to 1 each, for a picture of them to tell anything

Box = Sequence[float]


def told_apart(pictures: Sequence[Picture], results: Results, detector: Detector) -> dict[str, Estimate]:
    """For each row of two people: how much of the difference between them their two drawn faces have, 0 to 1.

    The part of the faces' difference that lies along the people's own. Pictures in which not just two faces were found
    do not count, and people who look alike do not.
    """
    pairs = [picture for picture in pictures if len(picture.people) == 2]
    own = _looks_of_people(pairs, detector)
    found = {(scores.row, scores.name): [face.box for face in scores.faces] for scores in results.pictures}
    values: dict[str, list[float]] = {}
    groups: dict[str, list[tuple[str, ...]]] = {}
    for picture in pairs:
        boxes = found[picture.row, picture.name]
        if len(boxes) != 2:
            continue
        first, second = (own[person] for person in picture.people)
        if np.linalg.norm(first - second) >= LEAST_DIFFERENCE:
            drawn = [looks(load_pixels(picture.image), box) for box in boxes]
            values.setdefault(picture.row, []).append(share_of_difference(drawn, (first, second)))
            groups.setdefault(picture.row, []).append(picture.people)
    return {row: estimate_mean(values[row], groups[row]) for row in values}


def looks(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Colours (6,) from 0 to 1 of the skin and the hair of the face in a box, in a picture (H, W, 3) uint8."""
    x1, y1, x2, y2 = box
    colours = []
    for left, top, right, bottom in (SKIN, HAIR):
        xs = np.clip([x1 + left * (x2 - x1), x1 + right * (x2 - x1)], 0, pixels.shape[1]).round().astype(int)
        ys = np.clip([y1 + top * (y2 - y1), y1 + bottom * (y2 - y1)], 0, pixels.shape[0]).round().astype(int)
        part = pixels[ys[0] : max(ys[1], ys[0] + 1), xs[0] : max(xs[1], xs[0] + 1)]
        colours.append(np.median(part.reshape(-1, 3), axis=0) / 255)
    return np.concatenate(colours)


def share_of_difference(drawn: Sequence[np.ndarray], people: Sequence[np.ndarray]) -> float:
    """|(drawn1 - drawn2) · (person1 - person2)| / |person1 - person2|², at most 1; who is where does not matter."""
    wanted = people[0] - people[1]
    return float(min(1.0, abs((drawn[0] - drawn[1]) @ wanted) / (wanted @ wanted)))


def _looks_of_people(pictures: Sequence[Picture], detector: Detector) -> Mapping[str, np.ndarray]:
    photos = {reference.person: load_pixels(reference.photos[0]) for one in pictures for reference in one.references}
    seen = look_at(list(photos.values()), detector, [])
    return {
        person: looks(photo, faces.faces[0].box) for (person, photo), faces in zip(photos.items(), seen, strict=True)
    }


def told_apart_markdown(found: Mapping[str, Estimate]) -> str:
    """A Markdown table."""
    lines = ["| two people | told apart, % | pictures |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row} | {one.shown(1, 100)} | {one.n} |" for row, one in found.items())]) + "\n"
