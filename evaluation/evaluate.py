"""From generated pictures to scores: the one function behind the command, the tiny world's table and the tests."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..faces.detection import Detector
from .descriptions import describe_metrics, describe_tools
from .found_faces import AUTOMATIC_UPSCALE, embed_references, look_at
from .judges.judge import Judge
from .judges.loading import require_independent
from .metrics.frechet import FidReference, frechet_distance
from .metrics.separation import Separation, separation
from .pictures import Picture, Reference, load_pixels
from .results import PictureScores, Results, Row, summarise
from .scoring import Extras, further_scores, score_picture

logger = logging.getLogger("likeness.evaluation")

AT_ONCE = 32  # pictures in memory together


def evaluate(
    pictures: Sequence[Picture],
    judges: Judge | Sequence[Judge],
    detector: Detector,
    *,
    second_opinions: Sequence[Judge] = (),
    conditioned_by: Collection[str] = (),
    upscale: int = AUTOMATIC_UPSCALE,
    extras: Extras | None = None,
    seed: int = 0,
) -> Results:
    """Measure pictures row by row.

    judges: independent recognisers, the first one leads. second_opinions: further ones, which may condition.
    conditioned_by: SHA-256 or names of the networks that saw the references (see `require_independent`).
    upscale: see `upscale_factor`. seed: of the bootstrap.
    Raises ValueError for no pictures, two of one name in a row, a judge that is not independent, a reference without
    a face, and what the metrics refuse.
    """
    judges = [judges] if isinstance(judges, Judge) else list(judges)
    everybody = [*judges, *second_opinions]
    _check(pictures, judges, everybody, conditioned_by)
    extras = extras or Extras()
    if extras.fid is not None:
        _check_fid(pictures, extras.fid)
    references = list(dict.fromkeys(one for picture in pictures for one in (*picture.references, *picture.others)))
    embedded = embed_references(references, detector, everybody, upscale)
    scored: list[PictureScores] = []
    features: dict[str, list[np.ndarray]] = {}
    for part in _parts(pictures):
        images = [load_pixels(picture.image) for picture in part]
        found = look_at(images, detector, everybody, upscale)
        further = further_scores(part, images, found, extras)
        for picture, image, faces, more in zip(part, images, found, further, strict=True):
            scored.append(score_picture(picture, image, faces, embedded, everybody, more))
        if extras.fid is not None:
            vectors = extras.fid.features.features(images)
            for picture, vector in zip(part, vectors, strict=True):
                features.setdefault(picture.row, []).append(vector)
        logger.info("measured %s of %s pictures", len(scored), len(pictures))
    rows = _summaries(scored, seed)
    if extras.fid is not None:
        rows = _with_fid(rows, {name: np.stack(found) for name, found in features.items()}, extras.fid)
    return Results(
        rows,
        tuple(scored),
        {judge.name: _level(judge.name, embedded) for judge in everybody},
        describe_tools(judges, second_opinions, conditioned_by, detector, upscale, extras),
        describe_metrics(scored, extras),
        seed,
    )


def _check(
    pictures: Sequence[Picture], judges: Sequence[Judge], everybody: Sequence[Judge], conditioned_by: Collection[str]
) -> None:
    if not pictures:
        raise ValueError("there are no pictures to measure")
    if not judges:
        raise ValueError("no judge is given; a second opinion alone is no measurement")
    names = [judge.name for judge in everybody]
    if len(set(names)) < len(names):
        raise ValueError(f"every judge needs a name of its own, got {', '.join(names)}")
    require_independent(judges, conditioned_by)
    _check_rows(pictures)


def _check_rows(pictures: Sequence[Picture]) -> None:
    """Raise ValueError for a name that comes twice in a row, and for a row of pictures of one person and of several."""
    seen: set[tuple[str, str]] = set()
    counts: dict[str, set[int]] = {}
    for picture in pictures:
        counts.setdefault(picture.row, set()).add(min(len(picture.references), 2))
        if counts[picture.row] >= {1, 2}:
            raise ValueError(
                f"the row {picture.row!r} mixes pictures of one person and of several; they are measured differently, "
                "so give them different rows"
            )
        if (picture.row, picture.name) in seen:
            raise ValueError(f"two pictures of the row {picture.row!r} are called {picture.name!r}")
        seen.add((picture.row, picture.name))


def _parts(pictures: Sequence[Picture]) -> Iterator[Sequence[Picture]]:
    for start in range(0, len(pictures), AT_ONCE):
        yield pictures[start : start + AT_ONCE]


def _summaries(scored: Sequence[PictureScores], seed: int) -> dict[str, Row]:
    names = dict.fromkeys(picture.row for picture in scored)
    return {name: summarise(name, [picture for picture in scored if picture.row == name], seed) for name in names}


def _check_fid(pictures: Sequence[Picture], reference: FidReference) -> None:
    """Raise ValueError for a reference row that is not there, and for fewer than two reference pictures."""
    rows = list(dict.fromkeys(picture.row for picture in pictures))
    if reference.row and reference.row not in rows:
        raise ValueError(f"FID compares to the row {reference.row!r}, which is not among {', '.join(rows)}")
    count = sum(picture.row == reference.row for picture in pictures) if reference.row else len(reference.pictures)
    if count < 2:
        raise ValueError(f"FID needs at least two reference pictures, from a folder or of a row; got {count}")


def _with_fid(rows: Mapping[str, Row], features: Mapping[str, np.ndarray], reference: FidReference) -> dict[str, Row]:
    """The rows with their FID, none for the reference itself and for a row of one picture."""
    if reference.row:
        others = features[reference.row]
    else:
        parts = [reference.pictures[start : start + AT_ONCE] for start in range(0, len(reference.pictures), AT_ONCE)]
        others = np.concatenate([reference.features.features([load_pixels(path) for path in part]) for part in parts])
    return {
        name: row
        if name == reference.row or len(features[name]) < 2
        else replace(row, fid=frechet_distance(features[name], others))
        for name, row in rows.items()
    }


def _level(judge: str, embedded: Mapping[Reference, Mapping[str, np.ndarray]]) -> Separation:
    """What the references' own photos score among each other; a photo that several references share counts once."""
    known: dict[tuple[str, bytes], np.ndarray] = {}
    for reference, vectors in embedded.items():
        for vector in vectors[judge]:
            known.setdefault((reference.person, vector.tobytes()), vector)
    people = [person for person, _ in known]
    return separation(np.stack(list(known.values())) if known else np.zeros((0, 1)), people)
