"""The judge "curricular": the backbone that UniPortrait conditions on, as a second opinion only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...faces.alignment import align
from ...faces.backbone import IRBackbone
from ...faces.types import Face
from ..fingerprints import file_fingerprint
from ..weights import read_state_dict
from .judge import Judge

NAME = "curricular"
THRESHOLD = 0.2  # cosine; below it Encode Identity warns of different people

_AT_ONCE = 16


def load_curricular(path: str | Path) -> Judge:
    """The CurricularFace backbone, of any sizes, from .bin or .safetensors.

    Raises ValueError when the file is missing or of another network.
    """
    backbone = IRBackbone.from_state_dict(read_state_dict(path))
    side = backbone.input_size
    return Judge(
        NAME,
        file_fingerprint(path),
        THRESHOLD,
        f"{side} px crop by five landmarks and the ArcFace template, RGB in [-1, 1]",
        _Network(backbone),
    )


class _Network:
    def __init__(self, backbone: IRBackbone) -> None:
        self._backbone = backbone

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        side = self._backbone.input_size
        crops = np.stack([align(images[face.image_index], face.landmarks, side) for face in faces])
        pixels = torch.from_numpy(crops).movedim(-1, 1).float() / 127.5 - 1
        return torch.cat([self._backbone.embed(part) for part in pixels.split(_AT_ONCE)]).numpy()
