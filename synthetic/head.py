"""The head: its relief and light, the skin and what lies on it; ears and neck."""

from __future__ import annotations

import torch
from torch import Tensor

from .features import colour, nose_shadows, nose_tip, paint_brows, paint_eyes, paint_mouth, socket_shadows
from .framing import Look
from .geometry import Canvas, Surface, lambert, normalised
from .identity import Identity
from .layer import Layer, bump, soft, tint


def paint_neck(layer: Layer, where: Canvas, identity: Identity, look: Look) -> Tensor:
    """The neck, dark where the chin throws its shadow. Returns its cover (P, h, w)."""
    half = identity.width * 0.55 + 0.05 * (where.y - 1).clamp(0, 1)
    shape = torch.minimum(half - (where.x - 0.10 * look.yaw_sin).abs(), where.y - 0.3)
    shade = 0.62 + 0.22 * ((where.y - identity.height * 0.95) * 3).clamp(0, 1)
    cover = soft(shape, where.sharpness)
    layer.put(cover, identity.skin * (shade * _brightness(look))[:, None])
    return cover


def paint_ears(layer: Layer, where: Canvas, identity: Identity, look: Look) -> None:
    """Both ears at once, each in its half; the head, painted later, hides what is behind it."""
    middle = -0.08 * look.yaw_sin
    across = ((where.turned_x - middle).abs() - identity.width * 0.97 * look.yaw_cos) / 0.11
    down = (where.turned_y - 0.04) / (identity.ear * 1.5)
    round2 = across.square() + down.square()
    inner = torch.exp((-3.0 * round2).clamp(min=-20))
    paint = identity.skin * colour(1.0, 0.90, 0.87, where.x) * (_brightness(look) * (0.93 - 0.3 * inner))[:, None]
    layer.put(soft((1 - round2) * 0.07, where.sharpness), paint)


def paint_head(layer: Layer, at: Surface, where: Canvas, identity: Identity, look: Look) -> Tensor:
    """The head with all features, without hair. Returns its cover (P, h, w)."""
    skin = identity.skin.expand(-1, -1, *at.x.shape[1:]).clone()
    _paint_complexion(skin, at, identity, look)
    rows = at.x.shape[1]  # of which these can hold eyes and brows, nose and mouth; in eights, see `framing`
    upper, lower = slice(rows // 64 * 8, -(-rows * 3 // 32) * 8), slice(rows * 3 // 64 * 8, rows)
    upper_at, lower_at = at.rows(upper), at.rows(lower)
    skin *= _folds(at, identity, look)[:, None]
    skin[:, :, upper] *= socket_shadows(upper_at, identity, look)[:, None]
    skin[:, :, lower] *= nose_shadows(lower_at, identity, look)[:, None]
    _paint_beard(skin, at, identity)
    paint_mouth(skin[:, :, lower], lower_at, identity, look, where.sharpness)
    paint_eyes(skin[:, :, upper], upper_at, identity, look, where.sharpness)
    paint_brows(skin[:, :, upper], upper_at, identity, look, where.sharpness)
    slope_x, slope_y = _relief(at, identity, look)
    x, y, z = normalised(at.normal_x - slope_x, at.normal_y - slope_y, at.normal_z)
    cosine = lambert(look.light, x, y, z)
    shade = look.ambient + (1.10 - look.ambient) * cosine
    gloss = 0.07 * cosine**16
    cover = soft(at.inside, where.sharpness)
    layer.put(cover, skin.mul_(shade[:, None]).add_(gloss[:, None]))
    return cover


def _brightness(look: Look) -> Tensor:
    return look.ambient + (1.10 - look.ambient) * look.light[:, 2] * 0.8


def _relief(at: Surface, identity: Identity, look: Look) -> tuple[Tensor, Tensor]:
    """Slopes of what rises from the head: nose, sockets, cheeks, lips and chin, each a Gaussian hill."""
    across, tip = nose_tip(identity, look)
    mirror = torch.where(at.x < 0, -1.0, 1.0)
    folded = at.x.abs()
    long = identity.nose_length
    hills = (  # x and y of the middle, half-widths, height, mirrored to both sides
        (across * 0.6, tip - 0.42 * long, 0.085, long * 0.55, 0.075 * identity.nose_bump, False),
        (across, tip - 0.01, identity.nose_width * 0.75, 0.085, 0.085 * identity.nose_bump, False),
        (identity.eye_x, identity.eye_y, 0.19, 0.12, -0.05, True),
        (0.42, 0.24, 0.21, 0.20, 0.030 * (1 + 0.6 * look.smile.clamp(min=0)), True),
        (0.0, identity.mouth_y, 0.26, 0.13, 0.030, False),
        (0.0, identity.height * 0.84, 0.17, 0.11, 0.035, False),
    )
    slope_x, slope_y = torch.zeros_like(at.x), torch.zeros_like(at.x)
    for middle_x, middle_y, width, height, rise, mirrored in hills:
        x, y = (folded if mirrored else at.x) - middle_x, at.y - middle_y
        hill = bump(x, y, width, height) * (-2.0 * rise)
        steep = hill * x / (width * width)
        slope_x = slope_x + (steep * mirror if mirrored else steep)
        slope_y = slope_y + hill * y / (height * height)
    return slope_x, slope_y


def _paint_complexion(skin: Tensor, at: Surface, identity: Identity, look: Look) -> None:
    """Blush, freckles and a mole."""
    across, tip = nose_tip(identity, look)
    cheeks = bump(at.x.abs() - 0.42, at.y - 0.25, 0.19, 0.15) + 0.7 * bump(at.x - across, at.y - tip, 0.12, 0.10)
    tint(skin, cheeks.clamp(max=1) * identity.blush, identity.skin * colour(1.03, 0.78, 0.76, skin))
    if identity.freckles.any():
        x, y = at.x * 58 + 4 * torch.sin(at.y * 33 + identity.phase), at.y * 61 + 4 * torch.sin(at.x * 37)
        specks = ((torch.sin(x) * torch.sin(y) - 0.25) * 3).clamp(0, 1) * bump(at.x, at.y - 0.14, 0.5, 0.17)
        tint(skin, 0.8 * specks * identity.freckles, identity.skin * colour(0.66, 0.53, 0.47, skin))
    if identity.mole.any():
        mole = bump(at.x - identity.mole_x, at.y - identity.mole_y, 0.038, 0.038)
        tint(skin, mole * identity.mole, identity.skin * 0.3)


def _folds(at: Surface, identity: Identity, look: Look) -> Tensor:
    """How much light (P, h, w) is left in the folds of age: beside the mouth and across the forehead."""
    _, tip = nose_tip(identity, look)
    folded = at.x.abs()
    beside = bump(folded - identity.nose_width - 0.05 - (at.y - tip) * 0.55, at.y - tip - 0.12, 0.022, 0.12)
    waves = (torch.sin(at.y * 52 + folded * folded * 8) - 0.6).clamp(min=0) * 2
    forehead = waves * bump(at.x, at.y - identity.eye_y + 0.42, 0.42, 0.13)
    return 1 - identity.lines * (0.30 * beside + 0.24 * forehead)


def _paint_beard(skin: Tensor, at: Surface, identity: Identity) -> None:
    """Beard on cheeks and jaw, on the chin, and above the lip; where it is dense it hides the skin."""
    if not identity.beard.any():
        return
    half = identity.mouth_width * 1.15
    folded = at.x.abs()
    line = 0.26 + 0.55 * (0.62 - folded).clamp(min=0)
    jaw = torch.sigmoid((at.y - line) * 18) * identity.beard_cheeks
    chin = bump(at.x, at.y - identity.height * 0.90, half * 1.35, 0.34) * identity.beard_chin
    chin = chin * torch.sigmoid((at.y - identity.mouth_y - 0.08) * 30)
    above = identity.mouth_y - 0.105 + 0.10 * (folded / half).square()
    lip = torch.sigmoid((0.055 - (at.y - above).abs()) * 60) * torch.sigmoid((half - folded) * 40) * identity.moustache
    cover = torch.maximum(torch.maximum(jaw, chin), lip) * identity.beard
    tint(skin, cover, identity.hair_colour * 0.70 + identity.skin * 0.10)
