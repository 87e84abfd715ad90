"""Shirts."""

from __future__ import annotations

import torch
from torch import Tensor

from .framing import Look
from .geometry import Canvas
from .layer import Layer, soft


def paint_shirt(layer: Layer, where: Canvas, look: Look) -> Tensor:
    """Shoulders in one named colour, lightly shaded, with a round or pointed neckline. Returns the cover."""
    x = where.x - 0.06 * look.yaw_sin
    aside = x.abs()
    shoulders = where.y - (1.10 + 0.17 * aside * aside)
    neckline = where.y - (1.34 + 0.10 * look.neckline) + aside * (0.15 + 0.35 * look.neckline)
    shape = torch.minimum(torch.maximum(neckline, (aside - 0.46) * 0.9), shoulders)
    shape = torch.minimum(shape, 1.42 - aside)
    shade = 0.97 + 0.07 * x * look.light[:, 0] - 0.05 * (aside - 0.7).clamp(min=0)
    collar = torch.exp(-((neckline - 0.03) / 0.035).square()) * (aside < 0.5)
    cover = soft(shape, where.sharpness)
    layer.put(cover, look.shirt_colour * (shade * (1 - 0.12 * collar))[:, None])
    return cover
