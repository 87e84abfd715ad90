"""The independent judge of the synthetic world: dlib's recogniser, told what drawn faces have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..evaluation.fitting import centre_from_pictures
from ..evaluation.judges.centre import load_centre, save_centre
from ..evaluation.judges.dlib_resnet import load_dlib
from ..evaluation.judges.judge import Judge
from ..faces.detection import Detector
from ..synthetic.people import train_people
from .people import drawn_photo
from .steps import Workshop

CENTRE_FILE = "dlib-centre.json"


def world_judge(workshop: Workshop, detector: Detector) -> Judge:
    """dlib with the centre of drawn faces; the bundled centre is that of photographs."""
    judge = load_dlib()
    return replace(judge, centre=load_centre(centre_file(workshop, detector), judge.fingerprint))


def centre_file(workshop: Workshop, detector: Detector) -> Path:
    """The judge's centre of train people, fitted once in a run."""
    path = workshop.folder / CENTRE_FILE
    if not path.exists():
        people = workshop.recipe.centre_people
        photos = [drawn_photo(person, 1, workshop.recipe.level) for person in train_people(people)]
        made_from = f"{people} train people of the synthetic world"
        save_centre(centre_from_pictures(load_dlib(), [photos], detector, made_from), path)
    return path
