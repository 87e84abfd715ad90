"""The independent judge of the synthetic world: dlib's recogniser, told what drawn faces have in common."""

from __future__ import annotations

from pathlib import Path

from ..demo.trained import CENTRE_FILE
from ..evaluation.fitting import centre_from_pictures
from ..evaluation.judges.centre import save_centre
from ..evaluation.judges.dlib_resnet import NAME as DLIB
from ..evaluation.judges.judge import Judge
from ..evaluation.judges.loading import load_judge
from ..faces.detection import Detector
from ..synthetic.people import train_people
from .people import drawn_photo
from .steps import Workshop


def world_judge(workshop: Workshop, detector: Detector) -> Judge:
    """dlib with the centre of drawn faces; the bundled centre is that of photographs."""
    return load_judge(DLIB, centre_file(workshop, detector))


def centre_file(workshop: Workshop, detector: Detector) -> Path:
    """The judge's centre of train people, fitted once in a run."""
    path = workshop.folder / CENTRE_FILE
    if not path.exists():
        people = workshop.recipe.centre_people
        photos = [drawn_photo(person, 1, workshop.recipe.level) for person in train_people(people)]
        made_from = f"{people} train people of the synthetic world"
        save_centre(centre_from_pictures(load_judge(DLIB), [photos], detector, made_from), path)
    return path
