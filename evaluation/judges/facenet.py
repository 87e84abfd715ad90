"""The judge "facenet": InceptionResnetV1 of facenet-pytorch, which the paper measures with (spec, section 12)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ...faces.types import Face, clip_box
from ..fingerprints import file_fingerprint
from ..weights import read_state_dict
from .judge import Judge

NAME = "facenet"
# Cosine; a distance of 1.1 between unit vectors, a common choice for FaceNet networks, not measured here.
THRESHOLD = 0.4

_SIDE = 160  # pixels
_AT_ONCE = 32


def load_facenet(path: str | Path) -> Judge:
    """The FaceNet judge from a state dict such as 20180402-114759-vggface2.pt.

    The architecture comes from the package facenet-pytorch. Raises ValueError when it or the file is missing, or the
    file is of another network.
    """
    weights = read_state_dict(path)
    try:
        from facenet_pytorch import InceptionResnetV1
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit to torch
        raise ValueError(
            f"the judge facenet needs the package facenet-pytorch, which cannot be imported ({error}). Install it with "
            "`pip install --no-deps facenet-pytorch` (it asks for old versions of torch and numpy, but runs on new)"
        ) from error
    network = InceptionResnetV1(pretrained=None)
    weights = {key: value.float() for key, value in weights.items() if not key.startswith("logits.")}
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    try:
        network.load_state_dict({**counters, **weights})
    except RuntimeError as error:
        raise ValueError(f"{path} holds no InceptionResnetV1 of facenet-pytorch: {error}") from error
    return Judge(
        NAME,
        file_fingerprint(path),
        THRESHOLD,
        "detected box without margin, 160 px, (x - 127.5) / 128; with the bundled detector the paper's protocol",
        _Network(network.eval().requires_grad_(False)),
    )


class _Network:
    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        crops = np.stack([_crop(images[face.image_index], face) for face in faces])
        pixels = (torch.from_numpy(crops).movedim(-1, 1).float() - 127.5) / 128
        return torch.cat([self._network(part) for part in pixels.split(_AT_ONCE)]).numpy()


def _crop(image: np.ndarray, face: Face) -> np.ndarray:
    """The face's box (160, 160, 3) uint8, cut at the picture's edge."""
    x1, y1, x2, y2 = (int(side) for side in clip_box(face.box, image))
    part = image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    if 0 in part.shape:  # a box beside the picture
        part = np.zeros((1, 1, 3), np.uint8)
    return np.array(Image.fromarray(part).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
