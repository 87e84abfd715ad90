"""Scores of single pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .found_faces import FoundFaces
from .judges.judge import Judge
from .metrics import blending, clip, duplicates, face_similarity, routing_accuracy
from .metrics.aesthetic import AestheticHead
from .metrics.attributes import AttributeReader, agreement
from .metrics.clip import ClipModel
from .metrics.frechet import FidReference
from .pictures import Picture, Reference, load_masks, load_routing
from .results import PictureScores, SeenFace


@dataclass(frozen=True)
class Extras:
    """What is measured besides faces, each only where its network is given.

    clip: CLIP-T. aesthetic: LAION-Aes, needs clip. fid: FID. read_attributes: prompt agreement.
    """

    clip: ClipModel | None = None
    aesthetic: AestheticHead | None = None
    fid: FidReference | None = None
    read_attributes: AttributeReader | None = None

    def __post_init__(self) -> None:
        if self.aesthetic is not None and self.clip is None:
            raise ValueError("the aesthetic score needs CLIP; give its weights too")


def score_picture(
    picture: Picture,
    image: np.ndarray,
    found: FoundFaces,
    embedded: Mapping[Reference, Mapping[str, np.ndarray]],
    judges: Sequence[Judge],
    further: Mapping[str, float],
) -> PictureScores:
    """All scores of one picture.

    found: its faces. embedded: reference -> judge -> embeddings (p, d) of its photos. judges: the first one also says
    whose faces routing is judged by. further: scores that need no faces. Raises ValueError for masks that do not fit.
    """
    scores: dict[str, float] = {"detected": float(len(found.faces) >= max(1, len(picture.references)))}
    scores["faces"] = float(len(found.faces))
    matches: list[dict[str, tuple[str, float]]] = [{} for _ in found.faces]
    cosines = {}
    for judge in judges:
        faces = found.embeddings[judge.name]
        matrix = face_similarity.similarities([embedded[one][judge.name] for one in picture.references], faces)
        scores |= _judged(judge, matrix, faces)
        for reference, face in face_similarity.greedy_match(matrix):
            matches[face][judge.name] = (picture.people[reference], float(matrix[reference, face]))
        everyone = (*picture.references, *picture.others)
        if found.faces:
            largest = face_similarity.similarities([embedded[one][judge.name] for one in everyone], faces)[:, 0]
            cosines[judge.name] = {one.person: float(value) for one, value in zip(everyone, largest, strict=True)}
        if judge is judges[0]:
            scores |= _routing(picture, image, found, matrix)
    seen = tuple(SeenFace(face.box, face.score, match) for face, match in zip(found.faces, matches, strict=True))
    return PictureScores(
        picture.name, picture.row, picture.people, picture.prompt, picture.seed, {**scores, **further}, seen, cosines
    )


def _judged(judge: Judge, matrix: np.ndarray, faces: np.ndarray) -> dict[str, float]:
    """One judge's scores of one picture from the (N, k) cosines and the k faces' embeddings."""
    scores = {}
    num_people = len(matrix)
    if num_people:
        scores[f"face_sim/{judge.name}"] = face_similarity.face_similarity(matrix)
        missing = duplicates.unmatched_references(matrix, judge.threshold)
        scores[f"unmatched/{judge.name}"] = len(missing) / num_people
    if num_people > 1:
        score = blending.blending_score(faces)
        if score is not None:
            scores[f"blending/{judge.name}"] = score
        scores[f"duplicates/{judge.name}"] = float(bool(duplicates.duplicate_pairs(faces, judge.threshold)))
    return scores


def _routing(picture: Picture, image: np.ndarray, found: FoundFaces, matrix: np.ndarray) -> dict[str, float]:
    """Routing accuracy per layer and over layers; with `masks` under its own name, else under that of matched faces."""
    routing = load_routing(picture)
    if not routing:
        return {}
    metric, masks = "routing_accuracy", load_masks(picture)
    if masks is None:
        boxes: list[tuple[float, float, float, float] | None] = [None] * len(matrix)
        for reference, face in face_similarity.greedy_match(matrix):
            boxes[reference] = found.faces[face].box
        metric, masks = "routing_agreement", routing_accuracy.box_masks(boxes, *image.shape[:2])
    layers = {
        layer: value
        for layer, routed in sorted(routing.items())
        if (value := routing_accuracy.routing_accuracy(np.asarray(routed), masks)) is not None
    }
    if not layers:
        return {}
    named = {f"{metric}/layer {layer}": value for layer, value in layers.items()}
    return {metric: float(np.mean(list(layers.values()))), **named}


def further_scores(
    pictures: Sequence[Picture], images: Sequence[np.ndarray], found: Sequence[FoundFaces], extras: Extras
) -> list[dict[str, float]]:
    """CLIP-T, aesthetic score and prompt agreement of each picture."""
    scores: list[dict[str, float]] = [{} for _ in pictures]
    if extras.clip is not None:
        seen = extras.clip.embed_images(images)
        asked = extras.clip.embed_texts([picture.prompt for picture in pictures])
        for picture, score, image, text in zip(pictures, scores, seen, asked, strict=True):
            if picture.prompt:
                score["clip_t"] = clip.clip_t(image, text)
        if extras.aesthetic is not None:
            for score, value in zip(scores, extras.aesthetic.score(seen), strict=True):
                score["aesthetic"] = float(value)
    if extras.read_attributes is not None:
        for picture, score, image, faces in zip(pictures, scores, images, found, strict=True):
            if picture.expected:
                agreed = agreement(picture.expected, extras.read_attributes(image, faces.faces))
                score["attributes"] = float(np.mean(list(agreed.values())))
                score |= {f"attributes/{name}": value for name, value in agreed.items()}
    return scores
