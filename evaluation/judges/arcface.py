"""The judge "insightface": an ArcFace network as an ONNX file, such as those of insightface's model packs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...faces.alignment import align
from ...faces.scrfd import usable_providers
from ...faces.types import Face
from ..fingerprints import file_fingerprint
from .judge import Judge

NAME = "insightface"
RECOGNISER_FILES = ("w600k_r50.onnx", "glintr100.onnx", "w600k_mbf.onnx")  # of buffalo_l, antelopev2, buffalo_s
THRESHOLD = 0.35  # cosine; a common choice for networks of this family, not measured here

_SIDE = 112  # pixels
_AT_ONCE = 16


def load_arcface(path: str | Path) -> Judge:
    """The ArcFace judge from an ONNX file with one picture input (B, 3, 112, 112) and one embedding output.

    Raises ValueError when onnxruntime or the file is missing, or the file is of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the recogniser {path} was not found; it is an .onnx file of an insightface model pack")
    session = _open(path)
    return Judge(
        NAME,
        file_fingerprint(path),
        THRESHOLD,
        "112 px crop by five landmarks and the ArcFace template, RGB, (x - 127.5) / 127.5",
        _Network(session),
    )


def find_recognisers(folders: Sequence[Path]) -> list[Path]:
    """The recognisers of known packs below these folders, such as ComfyUI's models/insightface, unpacked ones only."""
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.onnx"))]
    known = [path for name in RECOGNISER_FILES for path in found if path.name == name]
    return list(dict.fromkeys(known))


def _open(path: Path) -> Any:
    try:
        from onnxruntime import InferenceSession, get_available_providers
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf
    except ImportError as error:
        raise ValueError(
            f"the judge insightface needs onnxruntime, which cannot be imported ({error}). Install it with `pip "
            "install onnxruntime`"
        ) from error
    try:
        session = InferenceSession(path.read_bytes(), providers=usable_providers(get_available_providers()))
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise ValueError(f"the recogniser {path} is damaged or not an ONNX model: {error}") from error
    (first, *others), outputs = session.get_inputs(), session.get_outputs()
    if others or len(outputs) != 1 or list(first.shape[1:]) != [3, _SIDE, _SIDE]:
        raise ValueError(
            f"{path} is not a face recogniser of the ArcFace family: it reads {first.shape} and has {len(outputs)} "
            f"outputs, where (batch, 3, {_SIDE}, {_SIDE}) and 1 are expected"
        )
    return session


class _Network:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0]

    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        crops = np.stack([align(images[face.image_index], face.landmarks, _SIDE) for face in faces])
        pixels = ((crops.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
        step = 1 if self._input.shape[0] == 1 else _AT_ONCE
        parts = [pixels[start : start + step] for start in range(0, len(pixels), step)]
        return np.concatenate([self._session.run(None, {self._input.name: part})[0] for part in parts])
