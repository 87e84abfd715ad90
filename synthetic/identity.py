"""Who a person is: everything that stays the same from picture to picture.

Lengths are in head units: a head is about 2 high, x points right, y down, z to the viewer, the origin lies in the
middle of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from torch import Tensor

from .batched import Batched, stacked
from .hairstyles import draw_beard, draw_hair
from .people import split_of
from .randomness import between, chance, stream

Colour = tuple[float, float, float]

_SKIN = ((255, 226, 204), (246, 204, 168), (226, 174, 130), (198, 138, 92), (160, 106, 72), (126, 82, 56), (98, 66, 48))
_IRIS = ((70, 42, 22), (110, 70, 30), (60, 110, 60), (60, 120, 180), (120, 130, 140))

_FRAMES = ((20, 20, 24), (96, 52, 26), (150, 24, 36), (34, 60, 150), (205, 170, 80), (235, 235, 235))


@dataclass(frozen=True)
class Identity(Batched):
    """A batch of people: tensors (P,) or, for colours, (P, 3), float32."""

    skin: Tensor
    width: Tensor  # half-widths and half-heights of the head
    height: Tensor
    jaw: Tensor  # how much the face narrows towards the chin
    cheek: Tensor
    chin: Tensor  # exponent: 2 a pointed oval, 3.4 a square chin
    ear: Tensor
    eye_x: Tensor
    eye_y: Tensor
    eye_width: Tensor
    eye_open: Tensor
    eye_tilt: Tensor
    iris: Tensor
    brow_height: Tensor
    brow_thickness: Tensor
    brow_angle: Tensor
    brow_width: Tensor
    nose_length: Tensor
    nose_width: Tensor
    nose_bump: Tensor
    mouth_y: Tensor
    mouth_width: Tensor
    lip: Tensor
    lip_red: Tensor
    blush: Tensor
    lines: Tensor  # folds beside the mouth and across the forehead
    freckles: Tensor
    mole: Tensor  # 1 where there is one
    mole_x: Tensor
    mole_y: Tensor
    glasses: Tensor  # 1 where they are worn
    glasses_size: Tensor
    glasses_round: Tensor
    glasses_frame: Tensor  # half the rim's thickness
    glasses_colour: Tensor
    phase: Tensor  # where textures of hair and skin begin
    hair_colour: Tensor
    hair: Tensor  # cover of the skull: 0 bald, 0.8 cropped, 1
    hair_line: Tensor
    hair_drop: Tensor  # how far the hairline falls towards the temples
    hair_top: Tensor  # thickness above and beside the skull
    hair_side: Tensor
    hair_fringe: Tensor
    hair_part: Tensor
    hair_curl: Tensor
    hair_length: Tensor  # where hair behind and beside the face ends; 0 where there is none
    hair_bun: Tensor
    beard: Tensor  # density
    beard_cheeks: Tensor
    beard_chin: Tensor
    moustache: Tensor


def identities(seeds: Sequence[int]) -> Identity:
    """The people with these seeds, one row each. Raises ValueError for a number that is nobody's seed."""
    for seed in seeds:
        split_of(seed)
    return stacked(Identity, [_draw(stream("identity", seed)) for seed in seeds])


def _draw(random: Random) -> dict[str, float | Colour]:
    return _draw_head(random) | _draw_features(random) | _draw_marks(random) | draw_hair(random) | draw_beard(random)


def _draw_head(random: Random) -> dict[str, float | Colour]:
    return {
        "skin": _toned(_on_ramp(_SKIN, random.random()), between(random, -0.05, 0.06)),
        "width": between(random, 0.65, 0.88),
        "height": between(random, 0.92, 1.10),
        "jaw": between(random, 0.0, 0.46),
        "cheek": between(random, -0.06, 0.09),
        "chin": between(random, 2.0, 3.4),
        "ear": between(random, 0.10, 0.19),
        "phase": between(random, 0.0, 6.28),
    }


def _draw_features(random: Random) -> dict[str, float | Colour]:
    iris = _scaled(_IRIS[int(random.random() * len(_IRIS))], between(random, 0.85, 1.15) / 255)
    return {
        "eye_x": between(random, 0.26, 0.395),
        "eye_y": between(random, -0.22, -0.02),
        "eye_width": between(random, 0.12, 0.21),
        "eye_open": between(random, 0.38, 0.78),
        "eye_tilt": between(random, -0.22, 0.24),
        "iris": iris,
        "brow_height": between(random, 0.14, 0.24),
        "brow_thickness": between(random, 0.014, 0.075),
        "brow_angle": between(random, -1.0, 0.6),
        "brow_width": between(random, 1.05, 1.5),
        "nose_length": between(random, 0.29, 0.49),
        "nose_width": between(random, 0.08, 0.20),
        "nose_bump": between(random, 0.5, 1.2),
        "mouth_y": between(random, 0.46, 0.61),
        "mouth_width": between(random, 0.18, 0.35),
        "lip": between(random, 0.024, 0.098),
        "lip_red": random.random() ** 2,
    }


def _draw_marks(random: Random) -> dict[str, float | Colour]:
    return {
        "blush": between(random, 0.15, 0.6),
        "lines": max(0.0, between(random, -0.8, 1.0)),
        "freckles": float(chance(random, 0.2)),
        "mole": float(chance(random, 0.25)),
        "mole_x": between(random, -0.38, 0.38),
        "mole_y": between(random, 0.05, 0.45),
        "glasses": float(chance(random, 0.3)),
        "glasses_size": between(random, 0.18, 0.24),
        "glasses_round": between(random, 0.25, 1.0),
        "glasses_frame": between(random, 0.014, 0.036),
        "glasses_colour": _scaled(_FRAMES[int(random.random() * len(_FRAMES))], between(random, 0.85, 1.1) / 255),
    }


def _on_ramp(ramp: tuple[Colour, ...], place: float) -> Colour:
    place *= len(ramp) - 1
    below = min(int(place), len(ramp) - 2)
    share = place - below
    red, green, blue = ((a + (b - a) * share) / 255 for a, b in zip(ramp[below], ramp[below + 1], strict=True))
    return red, green, blue


def _toned(colour: Colour, rosy: float) -> Colour:
    red, green, blue = colour
    return red, green * (1 - rosy), blue * (1 - 0.5 * rosy)


def _scaled(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor
