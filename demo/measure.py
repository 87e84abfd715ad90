"""How much the demo's pictures look like their people, by a recogniser that took no part in making them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..evaluation.contact_sheets import write_contact_sheets
from ..evaluation.evaluate import evaluate
from ..evaluation.fingerprints import file_fingerprint
from ..evaluation.judges.dlib_resnet import NAME as DLIB
from ..evaluation.judges.judge import Judge
from ..evaluation.judges.loading import load_judge
from ..evaluation.pictures import Picture, Reference
from ..faces.detection import load_detector
from . import trained


@dataclass(frozen=True)
class Drawn:
    """Pictures (H, W, 3) uint8 of one kind, which are to show the first so many people."""

    title: str
    people: int
    prompt: str
    pictures: Sequence[np.ndarray]


def world_judge() -> Judge:
    """dlib's recogniser, told what drawn faces have in common. Raises ValueError where it is not installed."""
    return load_judge(DLIB, trained.FOLDER / trained.CENTRE_FILE)


def measure(drawn: Sequence[Drawn], photos: Sequence[np.ndarray], judge: Judge, backbone: Path, folder: Path) -> str:
    """Return a line with the Face Sim of each kind, and write a contact sheet of each into the folder."""
    references = [Reference(f"person {number}", (photo,)) for number, photo in enumerate(photos, 1)]
    pictures = [
        Picture(str(number), kind.title, picture, tuple(references[: kind.people]), kind.prompt)
        for kind in drawn
        for number, picture in enumerate(kind.pictures, 1)
    ]
    detector = load_detector("bundled", ())
    results = evaluate(pictures, judge, detector, conditioned_by=[file_fingerprint(backbone)])
    write_contact_sheets(pictures, results, folder)
    width = max(len(name) for name in results.rows)
    scores = {name: row.scores[f"face_sim/{judge.name}"].mean for name, row in results.rows.items()}
    return "\n".join(f"  {name:{width}}  {score:.2f}" for name, score in scores.items())
