"""Eyes, brows, nose and mouth, painted in the head's own coordinates.

Both eyes are painted at once, on |x|: u runs from an eye's centre outwards, v down from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .framing import Look
from .geometry import Surface
from .identity import Identity
from .layer import bump, soft, tint


def colour(red: float, green: float, blue: float, like: Tensor) -> Tensor:
    """A colour as (1, 3, 1, 1) on the device of `like`."""
    return torch.tensor([red, green, blue], device=like.device)[None, :, None, None]


def nose_tip(identity: Identity, look: Look) -> tuple[Tensor, Tensor]:
    """Where on the face the nose's tip is seen: it sticks out, so turning moves it more than the skin beside it."""
    across = 0.13 * look.yaw_sin / look.yaw_cos
    return across, identity.eye_y + identity.nose_length - 0.10 * look.pitch_sin


def paint_mouth(skin: Tensor, at: Surface, identity: Identity, look: Look, sharpness: Tensor) -> None:
    """Lips, the opening between them and teeth."""
    half = identity.mouth_width * (1 + 0.20 * look.smile - 2.5 * look.brow_raise)
    bend = look.smile * 0.10
    across = at.x / half
    line = identity.mouth_y + bend * (0.45 - across.square().clamp(max=1.7))
    arch = (1 - across.square()).clamp(min=0)
    lip_arch = arch * (1.6 - 0.6 * arch)  # fuller towards the corners than a parabola
    notch = 1 - 0.25 * torch.exp(-(at.x / 0.04).square())
    ends = half - at.x.abs()
    upper = at.y - (line - identity.lip * 0.8 * lip_arch * notch)
    lower = line + (identity.lip * 1.15 + look.mouth_open * 0.14) * lip_arch - at.y
    red = identity.skin * colour(0.86, 0.56, 0.54, skin)
    red = red + (colour(0.78, 0.16, 0.20, skin) - red) * identity.lip_red[:, None] * 0.8
    tint(skin, soft(torch.minimum(torch.minimum(upper, lower), ends), sharpness), red)
    opening = look.mouth_open * 0.14 * lip_arch
    gap = torch.minimum(at.y - line + 0.010, line + opening + 0.010 - at.y)
    tint(skin, soft(torch.minimum(gap, ends), sharpness), colour(0.26, 0.07, 0.07, skin))
    teeth = torch.minimum(torch.minimum(at.y - line - 0.004, line + opening * 0.5 - at.y), half * 0.82 - at.x.abs())
    shown = (look.mouth_open > 0.05) * (look.smile > 0.3)
    tint(skin, soft(teeth, sharpness) * shown, colour(0.95, 0.93, 0.90, skin))


def nose_shadows(at: Surface, identity: Identity, look: Look) -> Tensor:
    """How much light (P, h, w) is left under and beside the nose and in the nostrils; its form is relief."""
    across, tip = nose_tip(identity, look)
    x, y = at.x - across, at.y - tip
    folded = x.abs()
    under = 1 - 0.24 * bump(x, y - 0.065, identity.nose_width * 1.05, 0.035)
    wings = 1 - 0.24 * bump(folded - identity.nose_width * 0.95, y - 0.005, 0.030, 0.055)
    nostrils = 1 - 0.66 * bump(folded - identity.nose_width * 0.48, y - 0.045, 0.036, 0.022)
    return under * wings * nostrils


def paint_eyes(skin: Tensor, at: Surface, identity: Identity, look: Look, sharpness: Tensor) -> None:
    """Whites, irises with pupil and highlight, lids and lashes."""
    across, down = at.x.abs() - identity.eye_x, at.y - identity.eye_y
    u, v = across - down * identity.eye_tilt, down + across * identity.eye_tilt
    half = identity.eye_width
    tall = half * identity.eye_open * look.lid
    arch = (1 - (u / half).square()).clamp(min=0)
    arch = arch * (1.5 - 0.5 * arch)
    upper = v + tall * arch
    eye = torch.minimum(torch.minimum(upper, tall * 0.68 * arch - v), half - u.abs())
    tint(skin, soft(eye + 0.014, sharpness), identity.skin * 0.28)
    white = soft(eye, sharpness)
    tint(skin, white, colour(0.95, 0.94, 0.92, skin))
    _paint_iris(skin, at, identity, look, white, tall, down, sharpness)
    lash = torch.minimum(0.020 - upper.abs(), half * 1.06 - u.abs())
    tint(skin, soft(lash, sharpness), colour(0.07, 0.05, 0.05, skin))


def _paint_iris(
    skin: Tensor,
    at: Surface,
    identity: Identity,
    look: Look,
    white: Tensor,
    tall: Tensor,
    down: Tensor,
    sharpness: Tensor,
) -> None:
    radius = identity.eye_width * 0.47
    side = torch.where(at.x < 0, -identity.eye_x, identity.eye_x)
    x = at.x - side - look.gaze_x * identity.eye_width * 0.50
    y = down - look.gaze_y * tall * 0.5 + 0.01
    distance = (x.square() + y.square()).sqrt()
    ring = (distance / radius).clamp(max=1)
    iris = identity.iris * (0.65 + 0.5 * ring)[:, None]
    tint(skin, white * soft(radius - distance, sharpness), iris)
    tint(skin, white * soft(radius * 0.48 - distance, sharpness), colour(0.02, 0.02, 0.02, skin))
    tint(skin, white * bump(x + 0.025, y + 0.03, 0.022, 0.022), colour(1.0, 1.0, 1.0, skin))


def paint_brows(skin: Tensor, at: Surface, identity: Identity, look: Look, sharpness: Tensor) -> None:
    """Brows in a darker shade of the hair; sadness lifts their inner ends."""
    u, v = at.x.abs() - identity.eye_x, at.y - identity.eye_y
    half = identity.eye_width * identity.brow_width
    along = (u / half).clamp(-1, 1)
    sadness = look.smile.clamp(max=0)
    middle = -(identity.brow_height + look.brow_raise) - (along + 0.2) * (0.07 * identity.brow_angle + 0.07 * sadness)
    middle = middle - 0.035 * (1 - along.square())
    thick = identity.brow_thickness * (1 - 0.55 * along.clamp(min=-0.3))
    brow = torch.minimum(thick - (v - middle).abs(), half - u.abs())
    tint(skin, 0.92 * soft(brow, sharpness), identity.hair_colour * 0.62)


def socket_shadows(at: Surface, identity: Identity, look: Look) -> Tensor:
    """How much light (P, h, w) is left around the eyes."""
    across, down = at.x.abs() - identity.eye_x, at.y - identity.eye_y
    tall = identity.eye_width * identity.eye_open * look.lid
    crease = bump(across, down + tall + 0.06, identity.eye_width * 0.9, 0.016)
    return (1 - 0.16 * bump(across, down + 0.02, identity.eye_width * 1.3, tall * 2.2)) * (1 - 0.22 * crease)
