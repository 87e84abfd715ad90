"""The independent judge of the synthetic world: dlib's recogniser, told what drawn faces have in common."""

from __future__ import annotations

from dataclasses import replace

from ..evaluation.fitting import centre_from_pictures
from ..evaluation.judges.centre import load_centre, save_centre
from ..evaluation.judges.dlib_resnet import load_dlib
from ..evaluation.judges.judge import Judge
from ..faces.detection import Detector
from ..synthetic.people import train_people
from .people import drawn_photo
from .steps import Workshop


def world_judge(workshop: Workshop, detector: Detector) -> Judge:
    """dlib with a centre of train people, fitted once; the bundled centre is that of photographs."""
    judge = load_dlib()
    if not workshop.judge_centre.exists():
        people = workshop.recipe.centre_people
        photos = [drawn_photo(person, 1, workshop.recipe.level) for person in train_people(people)]
        made_from = f"{people} train people of the synthetic world"
        save_centre(centre_from_pictures(judge, [photos], detector, made_from), workshop.judge_centre)
    return replace(judge, centre=load_centre(workshop.judge_centre, judge.fingerprint))
