"""Hair behind the face, on the skull, and a bun above it."""

from __future__ import annotations

import torch
from torch import Tensor

from .framing import Look
from .geometry import Canvas, Surface, lambert, surface
from .identity import Identity
from .layer import Layer, bump, soft


def paint_back_hair(layer: Layer, where: Canvas, identity: Identity, look: Look, rows: list[int]) -> None:
    """What hangs down behind head and neck, for the rows that have it."""
    x = where.turned_x + 0.05 * look.yaw_sin
    end = identity.hair_length + 0.03 * torch.sin(x * 19 + identity.phase)
    half = (
        identity.width + identity.hair_side - 0.03 + 0.05 * (where.turned_y - 0.2).clamp(0, 1.0) * identity.hair_length
    )
    half = half + 0.03 * identity.hair_curl * torch.sin(where.turned_y * 17 + identity.phase)
    shape = torch.minimum(torch.minimum(half - x.abs(), end - where.turned_y), where.turned_y - 0.02)
    rounded = end - where.turned_y - 0.35 * (x / half).abs() ** 6
    strands = 0.55 + 0.08 * torch.sin(x * 37 + identity.hair_curl * 3 * torch.sin(where.turned_y * 11))
    paint = identity.hair_colour * (strands * (0.5 + 0.6 * look.ambient))[:, None]
    layer.put(soft(torch.minimum(shape, rounded), where.sharpness), paint, rows)


def paint_bun(layer: Layer, where: Canvas, identity: Identity, look: Look, rows: list[int]) -> None:
    """A ball of hair above and behind the skull, for the rows that have it."""
    size = identity.hair_bun
    x = (where.turned_x + 0.3 * look.yaw_sin) / size
    y = (where.turned_y + identity.height + size * 0.62) / (size * 0.85)
    round2 = x.square() + y.square()
    z = (1 - round2).clamp(min=0).sqrt()
    shade = look.ambient + (1.0 - look.ambient) * lambert(look.light, x, y, z)
    shade = shade * (0.88 + 0.10 * torch.sin(x * 5 + y * 6 + identity.phase))
    layer.put(soft((1 - round2) * size * 0.5, where.sharpness), identity.hair_colour * shade[:, None], rows)


def paint_hair(layer: Layer, where: Canvas, identity: Identity, look: Look, rows: list[int]) -> Tensor:
    """The hair on the skull down to the hairline, for the rows that have any. Returns its cover (rows, h, w)."""
    at = surface(identity, look, where, identity.hair_side, identity.hair_top, jaw=0.4)
    angle = torch.atan2(at.x, 0.35 - at.y)
    cover = soft(_edge(at, angle, identity), where.sharpness * 0.8) * _region(at, identity) * identity.hair
    phase = identity.phase
    wavy = torch.sin(angle * 31 + 2.5 * torch.sin(at.y * 7 + phase) + phase)
    straight = wavy + 0.7 * torch.sin(angle * 53 + at.y * 5)
    across = torch.sin(at.x * 17 + 2.4 * torch.sin(at.y * 13 + phase))
    curls = across * torch.sin(at.y * 19 + 2.4 * torch.sin(at.x * 11))
    strands = straight + (curls * 1.7 - straight) * identity.hair_curl
    cosine = lambert(look.light, at.normal_x, at.normal_y, at.normal_z)
    sheen = bump(at.y + identity.height * 0.62, at.x * 0.3, 0.16, 1.0) * cosine * (1 - 0.7 * identity.hair_curl)
    shade = (look.ambient * 0.85 + 0.55 * cosine) * (0.93 + 0.055 * strands) + 0.22 * sheen
    layer.put(cover, identity.hair_colour * shade[:, None] + 0.04 * sheen[:, None], rows)
    return cover


def _edge(at: Surface, angle: Tensor, identity: Identity) -> Tensor:
    """Signed distance from the hair's outline: bumpy where curled, thinning out above the ears where short."""
    bumps = torch.sin(angle * 13 + identity.phase) + 0.6 * torch.sin(angle * 23 + identity.phase * 2)
    thinning = ((at.y + 0.15) * 2.5).clamp(0, 1) * (identity.hair_length == 0)
    return at.inside + identity.hair_curl * 0.022 * bumps - identity.hair_side * thinning


def _region(at: Surface, identity: Identity) -> Tensor:
    """1 where hair grows: above the hairline, behind the ears down to the nape, and in curtains beside the face."""
    across = at.x / (identity.width + identity.hair_side)
    aside = across.abs()
    open_line = -identity.hair_line * identity.height * 0.92 + identity.hair_drop * aside * aside * aside.clamp(min=0.5)
    open_line = open_line + 0.16 * identity.hair_part * across * (1 - aside).clamp(min=0)
    fringe_line = identity.eye_y - identity.brow_height - 0.06 + 0.5 * aside**6
    line = open_line + (torch.maximum(fringe_line, open_line) - open_line) * identity.hair_fringe
    line = line + 0.02 * torch.sin(at.x * 24 + identity.phase)
    end = (identity.hair_length * 0.8).clamp(min=0.38)
    behind = torch.minimum((-0.12 - at.z) * 0.8, end - at.y)
    curtain = torch.minimum((0.62 * at.x.abs() - at.z) * 0.7, end - at.y) - 2.0 * (identity.hair_length < 0.5)
    return torch.sigmoid(torch.maximum(torch.maximum(line - at.y, behind), curtain) * 28)
