"""Judges by name, and the rule that no network judges the pictures that it conditioned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from .arcface import NAME as INSIGHTFACE
from .arcface import load_arcface
from .centre import load_centre
from .curricular import NAME as CURRICULAR
from .curricular import load_curricular
from .dlib_resnet import NAME as DLIB
from .dlib_resnet import load_dlib
from .facenet import NAME as FACENET
from .facenet import load_facenet
from .judge import Judge

JUDGES = (DLIB, FACENET, INSIGHTFACE, CURRICULAR)
_WITH_FILE = {FACENET: load_facenet, INSIGHTFACE: load_arcface, CURRICULAR: load_curricular}


def load_judge(text: str, centre: str | Path | None = None) -> Judge:
    """A judge from "dlib", "dlib=FOLDER", "facenet=FILE", "insightface=FILE" or "curricular=FILE".

    centre: a file by `save_centre` made with this judge; None for the bundled one of dlib and none for the others.
    Raises ValueError for another name, and for what is not installed or not there.
    """
    name, _, path = text.partition("=")
    if name not in JUDGES:
        raise ValueError(f"unknown judge {name!r}; there are {', '.join(JUDGES)}")
    if name == DLIB:
        judge = load_dlib(path or None)
    elif path:
        judge = _WITH_FILE[name](path)
    else:
        raise ValueError(f"the judge {name} needs its weights file: write {name}=FILE")
    return judge if centre is None else replace(judge, centre=load_centre(centre, judge.fingerprint))


def require_independent(judges: Sequence[Judge], conditioned_by: Collection[str]) -> None:
    """Refuse a judge that the pictures were conditioned by: it would see its own features come back.

    conditioned_by: SHA-256 of the files of conditioning networks, or judges' names. The judge "curricular" is refused
    as well where nothing is said, since UniPortrait conditions on it.
    Raises ValueError naming the judge.
    """
    named = {entry.lower() for entry in conditioned_by}
    for judge in judges:
        if judge.fingerprint in named or judge.name in named:
            raise ValueError(
                f"the judge {judge.name} ({judge.fingerprint[:12]}...) conditions these pictures, so its similarity "
                "says nothing about likeness. Judge with another recogniser; this one may be a second opinion"
            )
        if judge.name == CURRICULAR and not named:
            raise ValueError(
                "the judge curricular conditions UniPortrait, and nothing says that these pictures were made without "
                "it. Name the conditioning networks (conditioned_by), or take it as a second opinion"
            )
