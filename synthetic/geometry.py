"""From pixels to places on a head.

A head is made of horizontal slices, each an ellipse, so a pixel's place on it has a closed form at any turn: with the
slice's half-width w·g and half-depth d·g, x = X cos - Z sin and z = X sin + Z cos, (x/w)² + (z/d)² = g² is quadratic
in Z. Nodding moves the surface along the slices and leaves the outline, which for small angles is what one sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .batched import Batched
from .framing import Look
from .identity import Identity

DEPTH = 0.85  # half the depth of every head, in head units


@dataclass(frozen=True)
class Canvas(Batched):
    """Head units at every pixel (P, h, w) of the patches. x, y: upright; turned_x, turned_y: tilted with the head.

    sharpness: (P, 1, 1), per head unit, of an edge that is about one pixel wide.
    """

    x: Tensor
    y: Tensor
    turned_x: Tensor
    turned_y: Tensor
    sharpness: Tensor

    def window(self, part: tuple[slice, slice]) -> Canvas:
        """These rows and columns only."""
        x, y, turned_x, turned_y = (
            place[:, part[0], part[1]].contiguous() for place in (self.x, self.y, self.turned_x, self.turned_y)
        )
        return Canvas(x, y, turned_x, turned_y, self.sharpness)


@dataclass(frozen=True)
class Surface(Batched):
    """What each pixel (P, h, w) sees of a head: where it is on it, and the normal (unit length, y down, z to us).

    inside: signed distance from the outline in head units. x, y, z are the head's own axes.
    """

    inside: Tensor
    x: Tensor
    y: Tensor
    z: Tensor
    normal_x: Tensor
    normal_y: Tensor
    normal_z: Tensor

    def rows(self, part: slice) -> Surface:
        """These rows of pixels only."""
        return self._map(lambda value: value[:, part])


def canvas(look: Look, height: int, width: int, supersampling: int) -> Canvas:
    """Places of a patch's pixels; look with (P, 1, 1) fields. supersampling: samples per pixel and axis."""
    device = look.unit.device
    rows = ((torch.arange(height * supersampling, device=device) + 0.5) / supersampling)[None, :, None]
    columns = ((torch.arange(width * supersampling, device=device) + 0.5) / supersampling)[None, None, :]
    x = ((columns - look.centre_x) / look.unit).expand(-1, rows.shape[1], -1)
    y = ((rows - look.centre_y) / look.unit).expand(-1, -1, columns.shape[2])
    turned_x = x * look.roll_cos + y * look.roll_sin
    turned_y = y * look.roll_cos - x * look.roll_sin
    return Canvas(x, y, turned_x, turned_y, look.unit * (supersampling * 1.6))


def outline(identity: Identity, y: Tensor, height: Tensor, jaw: float = 1.0) -> tuple[Tensor, Tensor]:
    """Of a head's slices at y: the squared half-width in units of the head's, and how much the face narrows there."""
    q = y / height
    above = 1 - q.square()
    below = 1 - q.clamp(min=1e-6) ** identity.chin
    down = (y - 0.02).clamp(0, 1.3)
    narrowing = 1 - identity.jaw * (0.62 * jaw) * down * down.clamp(max=0.8)
    cheeks = 1 + identity.cheek * jaw * torch.exp(-((y - 0.25) / 0.28).square())
    return torch.where(q < 0, above, below), (narrowing * cheeks).clamp(min=0.3)


def surface(
    identity: Identity,
    look: Look,
    where: Canvas,
    side: Tensor | float = 0.0,
    top: Tensor | float = 0.0,
    jaw: float = 1.0,
) -> Surface:
    """The head, or the hair around it: thickness beside and above, and how much of the jaw's narrowing it follows."""
    width, height = identity.width + side, identity.height + top
    depth = width - identity.width + DEPTH
    x, y = where.turned_x, where.turned_y
    slice2, narrowing = outline(identity, y, height, jaw)
    reach2 = width.square() * look.yaw_cos.square() + depth.square() * look.yaw_sin.square()
    scaled2 = x.square() / (reach2 * narrowing.square())
    steepness = (x.square() / reach2.square() + y.square() / height.square().square()).sqrt() * 2 + 0.25
    inside = (slice2 - scaled2) / steepness
    return _seen(look, where, inside, slice2, narrowing, width, height, depth)


def _seen(
    look: Look,
    where: Canvas,
    inside: Tensor,
    slice2: Tensor,
    narrowing: Tensor,
    width: Tensor,
    height: Tensor,
    depth: Tensor,
) -> Surface:
    sin, cos = look.yaw_sin, look.yaw_cos
    per_width, per_depth = 1 / (width * narrowing).square(), 1 / depth.square()
    x = where.turned_x
    a = sin.square() * per_width + cos.square() * per_depth
    b = x * (sin * cos) * (per_depth - per_width)
    c = x.square() * (cos.square() * per_width + sin.square() * per_depth) - slice2
    towards = ((b.square() - a * c).clamp(min=0).sqrt() - b) / a
    own_x, own_z = x * cos - towards * sin, x * sin + towards * cos
    own_y = where.turned_y * look.pitch_cos + towards * look.pitch_sin
    slope_x, slope_z = own_x * per_width, own_z * per_depth
    slope_y = where.turned_y / height.square() * where.turned_y.square().clamp(max=1.0)
    normal_x, normal_z = slope_x * cos + slope_z * sin, slope_z * cos - slope_x * sin
    normal_x, normal_y, normal_z = normalised(normal_x, slope_y * 1.2, normal_z.clamp(min=0))
    return Surface(inside, own_x, own_y, own_z, normal_x, normal_y, normal_z)


def normalised(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A vector field at length 1."""
    scale = (x.square() + y.square() + z.square() + 1e-6).rsqrt()
    return x * scale, y * scale, z * scale


def lambert(light: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Cosine of light (P, 3, 1, 1) and normal, not below 0."""
    return (light[:, 0] * x + light[:, 1] * y + light[:, 2] * z).clamp(min=0)


def project(identity: Identity, look: Look, x: Tensor, y: Tensor, out: Tensor | float = 0.0) -> Tensor:
    """Where points of the head's front (P, k) appear: (P, k, 2) pixels of the patch; out: how far they stick out.

    identity, look: with (P, 1) fields.
    """
    slice2, narrowing = outline(identity, y, identity.height)
    width = identity.width * narrowing
    z = (slice2 - (x / width).square()).clamp(min=0).sqrt() * DEPTH + out
    towards = z * look.yaw_cos - x * look.yaw_sin
    across = x * look.yaw_cos + z * look.yaw_sin
    down = (y - towards * look.pitch_sin) / look.pitch_cos
    right = across * look.roll_cos - down * look.roll_sin
    low = across * look.roll_sin + down * look.roll_cos
    return torch.stack([right * look.unit + look.centre_x, low * look.unit + look.centre_y], dim=-1)
