"""The closed set of named colours for shirts and backgrounds."""

from __future__ import annotations

import torch
from torch import Tensor

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.10, 0.12),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.96, 0.88, 0.18),
    "green": (0.13, 0.58, 0.20),
    "cyan": (0.20, 0.80, 0.84),
    "blue": (0.12, 0.24, 0.78),
    "purple": (0.48, 0.16, 0.62),
    "pink": (0.97, 0.58, 0.76),
    "white": (0.93, 0.93, 0.92),
    "black": (0.09, 0.09, 0.11),
}
COLOUR_NAMES = tuple(COLOURS)


def palette(device: torch.device | str = "cpu") -> Tensor:
    """All named colours (10, 3) float32 RGB, 0 to 1, in the order of COLOUR_NAMES."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=device)
