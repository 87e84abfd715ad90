"""Glasses."""

from __future__ import annotations

import torch

from .features import colour
from .framing import Look
from .geometry import Canvas, Surface
from .identity import Identity
from .layer import Layer, soft


def paint_glasses(layer: Layer, at: Surface, where: Canvas, identity: Identity, look: Look, rows: list[int]) -> None:
    """Two rims, from round to rectangular, with bridge and sides, for the rows that wear them."""
    shift = 0.07 * look.yaw_sin
    x, down = at.x - shift, at.y - identity.eye_y - 0.02
    across = x.abs() - identity.eye_x * 1.03
    size, rounding = identity.glasses_size, identity.glasses_round
    radius = size * (0.25 + 0.72 * rounding)
    beyond_x = (across.abs() - (size - radius)).clamp(min=0)
    beyond_y = (down.abs() - (size * (0.72 + 0.28 * rounding) - radius).clamp(min=0)).clamp(min=0)
    lens = radius - (beyond_x.square() + beyond_y.square() + 1e-8).sqrt()
    rim = identity.glasses_frame - lens.abs()
    bridge = torch.minimum(identity.glasses_frame * 0.8 - (down + 0.02).abs(), -across - size)
    sides = torch.minimum(identity.glasses_frame * 0.7 - (down + 0.03).abs(), across - size)
    frame = torch.maximum(torch.maximum(rim, bridge), sides)
    on_head = soft(at.inside - 0.01, where.sharpness)
    glass = 0.10 * soft(lens, where.sharpness) * on_head
    layer.put(glass, colour(0.90, 0.95, 1.0, at.x), rows)
    layer.put(soft(frame, where.sharpness) * on_head, identity.glasses_colour, rows)
