"""The judge "insightface": an ArcFace network as an ONNX file, such as those of insightface's model packs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...faces.alignment import align
from ...faces.arcface import SIZE, ArcFace
from ...faces.types import Face
from ..fingerprints import file_fingerprint
from .judge import Judge

NAME = "insightface"
RECOGNISER_FILES = ("w600k_r50.onnx", "glintr100.onnx", "w600k_mbf.onnx")  # of buffalo_l, antelopev2, buffalo_s
THRESHOLD = 0.35  # cosine; a common choice for networks of this family, not measured here


def load_arcface(path: str | Path) -> Judge:
    """The ArcFace judge from an ONNX file with one picture input (B, 3, 112, 112) and one embedding output.

    Raises ValueError when onnxruntime or the file is missing, or the file is of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the recogniser {path} was not found; it is an .onnx file of an insightface model pack")
    recogniser = ArcFace(path.read_bytes(), str(path))
    return Judge(
        NAME,
        file_fingerprint(path),
        THRESHOLD,
        "112 px crop by five landmarks and the ArcFace template, RGB, (x - 127.5) / 127.5",
        _Network(recogniser),
    )


def find_recognisers(folders: Sequence[Path]) -> list[Path]:
    """The recognisers of known packs below these folders, such as ComfyUI's models/insightface, unpacked ones only."""
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.onnx"))]
    known = [path for name in RECOGNISER_FILES for path in found if path.name == name]
    return list(dict.fromkeys(known))


class _Network:
    def __init__(self, recogniser: ArcFace) -> None:
        self._recogniser = recogniser

    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        crops = [align(images[face.image_index], face.landmarks, SIZE) for face in faces]
        return self._recogniser.embed(np.stack(crops))
