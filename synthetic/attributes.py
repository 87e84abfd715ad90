"""Reads back from a picture what a caption asked for, by measuring it: colours, and where heads turn.

Every pixel of a region votes for the named colour that is nearest to it at some brightness, since light and patterns
make colours lighter and darker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .palette import COLOUR_NAMES, palette

Box = tuple[float, float, float, float]

_GAINS = (0.70, 0.80, 0.90, 1.0, 1.1, 1.2)
_FEWEST_PIXELS = 4
_TURNED = 0.095  # of the eye distance; measured with the bundled detector on 119 faces of 64 px pictures: 97 % right


@dataclass(frozen=True)
class Reading:
    """A colour's name; share: of the pixels that say so; distance: their median from it (RGB, 0 to 1.7)."""

    name: str
    share: float
    distance: float


def background_colour(image: np.ndarray | Tensor) -> Reading:
    """The colour along the top and the upper sides of a picture (H, W, 3), uint8 or float from 0 to 1."""
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    side = max(2, round(0.10 * min(height, width)))
    upper = pixels[: round(height * 0.55)]
    parts = (upper[:, :side], upper[:, width - side :], pixels[: max(1, side // 2)])
    return _read(torch.cat([part.reshape(-1, 3) for part in parts]))


def shirt_colour(image: np.ndarray | Tensor, box: Box) -> Reading | None:
    """The colour below a face; box: x1, y1, x2, y2 of the face in pixels, as a detector gives it.

    None where less than a few pixels of a shirt can be in the picture.
    """
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box
    reach = 0.42 * (x2 - x1)
    left = max(0, round((x1 + x2) / 2 - reach))
    right = max(left, min(width, round((x1 + x2) / 2 + reach)))
    top = max(0, min(round(y2 + 0.25 * (y2 - y1)), height - 2))
    chosen = pixels[top:, left:right].reshape(-1, 3)
    return _read(chosen) if len(chosen) >= _FEWEST_PIXELS and y2 < height else None


def head_turn(landmarks: np.ndarray) -> str:
    """Where a head turns, a name of TURNS, by how far the nose is off the middle of eyes and mouth.

    landmarks: (5, 2) pixels of a detector: left eye, right eye, nose, left and right mouth corner as seen.
    """
    left_eye, right_eye, nose = landmarks[:3]
    along = (right_eye - left_eye) / np.linalg.norm(right_eye - left_eye)
    middle = landmarks[[0, 1, 3, 4]].mean(axis=0)
    aside = float((nose - middle) @ along / np.linalg.norm(right_eye - left_eye))
    return "ahead" if abs(aside) < _TURNED else "left" if aside < 0 else "right"


def _pixels(image: np.ndarray | Tensor) -> Tensor:
    pixels = torch.tensor(image) if isinstance(image, np.ndarray) else image
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"a picture must be (height, width, 3), not {tuple(pixels.shape)}")
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def _read(pixels: Tensor) -> Reading:
    gains = torch.tensor(_GAINS, device=pixels.device)
    shades = (palette(pixels.device)[:, None] * gains[:, None]).clamp(max=1)  # (10, gains, 3)
    distances = torch.cdist(pixels, shades.reshape(-1, 3)).view(len(pixels), len(COLOUR_NAMES), -1).amin(dim=2)
    nearest = distances.argmin(dim=1)
    votes = torch.bincount(nearest, minlength=len(COLOUR_NAMES))
    winner = int(votes.argmax())
    mine = distances[nearest == winner, winner]
    return Reading(COLOUR_NAMES[winner], len(mine) / len(pixels), float(mine.median()))
