"""Reads named colours back from a picture by measuring it; for pictures that a model has made from a caption.

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
