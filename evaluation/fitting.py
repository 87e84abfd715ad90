"""Fitting a judge's centre to folders of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..faces.detection import Detector
from .found_faces import AUTOMATIC_UPSCALE, look_at
from .judges.centre import Centre, fit_centre
from .judges.judge import Judge
from .pictures import Source, load_pixels

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

_AT_ONCE = 32


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures of a folder, not of folders below it, by name. Raises ValueError for no folder or no picture."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(f"the folder {folder} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
    return found


def centre_from_pictures(
    judge: Judge,
    sets: Sequence[Sequence[Source]],
    detector: Detector,
    made_from: str,
    upscale: int = AUTOMATIC_UPSCALE,
) -> Centre:
    """The judge's centre over all faces of some sets of pictures, each set counting the same; see `fit_centre`."""
    bare = replace(judge, centre=None)
    embeddings = [_embeddings(bare, pictures, detector, upscale) for pictures in sets]
    return fit_centre(embeddings, made_from, judge.fingerprint)


def _embeddings(judge: Judge, pictures: Sequence[Source], detector: Detector, upscale: int) -> np.ndarray:
    parts = []
    for start in range(0, len(pictures), _AT_ONCE):
        images = [load_pixels(picture) for picture in pictures[start : start + _AT_ONCE]]
        parts += [found.embeddings[judge.name] for found in look_at(images, detector, [judge], upscale) if found.faces]
    return np.concatenate(parts) if parts else np.zeros((0, 0))
