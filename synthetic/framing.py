"""Where people stand in a picture, and the numbers of a batch of people that do not belong to who they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .batched import Batched, stacked
from .scene import Scene

_WIDEST = 1.2  # a share of a picture lets heads be as large as in a square 1.2 times as wide


@dataclass(frozen=True)
class Look(Batched):
    """How people look in their pictures: tensors (P,) or (P, 3), float32. Sines and cosines are of the head's turn."""

    centre_x: Tensor  # of the head, in pixels of the person's patch
    centre_y: Tensor
    unit: Tensor  # pixels per head unit
    yaw_sin: Tensor
    yaw_cos: Tensor
    pitch_sin: Tensor
    pitch_cos: Tensor
    roll_sin: Tensor
    roll_cos: Tensor
    smile: Tensor
    mouth_open: Tensor
    brow_raise: Tensor
    lid: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    shirt_colour: Tensor
    neckline: Tensor
    light: Tensor  # unit vector towards the light; y down, z to the viewer
    ambient: Tensor


@dataclass(frozen=True)
class Framing:
    """A batch of people, picture after picture, each in a patch as high as the picture.

    look: rows of people. left: where each patch begins, in pixels, and may lie beyond the picture. width: of all
    patches. heads: the rows and columns of a patch that hold any head without its hair.
    """

    look: Look
    left: tuple[int, ...]
    width: int
    heads: tuple[slice, slice]

    def scaled_heads(self, factor: int) -> tuple[slice, slice]:
        """The same rows and columns where every pixel has factor² samples."""
        rows, columns = (slice(part.start * factor, part.stop * factor) for part in self.heads)
        return rows, columns


def frame(scenes: Sequence[Scene]) -> Framing:
    """Framing of scenes that have one size and one number of people."""
    height, width = scenes[0].size
    share = width / len(scenes[0].people)
    half = min(height, _WIDEST * share) / 2
    usual = height - 1.12 * half - 0.4 * (height - 2 * half)
    patch = min(width, math.ceil(2.36 * half / 16) * 16)
    rows, left = [], []
    for scene in scenes:
        for place, person in enumerate(scene.people):
            x = share * (place + 0.5) + person.x * half
            y = usual + person.y * half
            start = round(x - patch / 2) if patch < width else 0
            left.append(start)
            turned = {
                f"{name}_{part.__name__}": part(getattr(person, name))
                for name in ("yaw", "pitch", "roll")
                for part in (math.sin, math.cos)
            }
            same = ("smile", "mouth_open", "brow_raise", "lid", "gaze_x", "gaze_y", "shirt_colour", "neckline")
            rows.append(
                turned
                | {name: getattr(person, name) for name in same}
                | {"centre_x": x - start, "centre_y": y, "unit": person.scale * half}
                | {"light": _towards(scene.light.x, scene.light.y), "ambient": scene.light.ambient}
            )
    heads = (
        _whole(usual - 0.86 * half, usual + 0.86 * half, height, 8),
        _whole(patch / 2 - 0.80 * half, patch / 2 + 0.80 * half, patch, 4),
    )
    return Framing(stacked(Look, rows), tuple(left), patch, heads)


def _whole(low: float, high: float, end: int, step: int) -> slice:
    """The pixels from low to high in whole steps: lengths that fill vector registers make results repeat to the bit."""
    return slice(max(0, math.floor(low / step) * step), min(end, math.ceil(high / step) * step))


def _towards(x: float, y: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + 1)
    return x / length, y / length, 1 / length
