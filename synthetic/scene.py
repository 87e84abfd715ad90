"""What a picture shows: who, in which pose, light and clothes, in front of what. All of it follows from two seeds.

What has a name (shirt, background, expression, gaze, turn) is what a caption can say; the rest is chance.
Left and right are the viewer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .palette import COLOUR_NAMES, COLOURS
from .people import common_split
from .randomness import between, one_of, stream

Colour = tuple[float, float, float]
Given = str | Sequence[str | None] | None

MOST_PEOPLE = 3
TURNS = ("ahead", "left", "right")
GAZES = ("ahead", "left", "right")
EXPRESSIONS = ("neutral", "smiling", "surprised", "sad")
LEVELS = ("plain", "busy")

_TURN_SHARES = ("ahead", "ahead", "left", "right")
_GAZE_SHARES = ("ahead", "ahead", "left", "right")


@dataclass(frozen=True)
class Person:
    """One person of a scene: the seed of the identity, the four names, and the numbers behind them.

    Angles in radians. x, y: how far the head lies off its place, and scale: the length of a head unit, both in halves
    of the picture's (or the person's share's) side.
    """

    seed: int
    shirt: str
    expression: str
    gaze: str
    turn: str
    yaw: float
    pitch: float
    roll: float
    x: float
    y: float
    scale: float
    smile: float
    mouth_open: float
    brow_raise: float
    lid: float
    gaze_x: float
    gaze_y: float
    shirt_colour: Colour
    neckline: float


@dataclass(frozen=True)
class Background:
    """What is behind the people: a named colour, and at level "busy" a pattern of its lighter and darker shades."""

    name: str
    colour: Colour
    slope: float  # how much brighter the top is than the bottom
    pattern: str  # "plain", "stripes", "spots" or "blobs"
    contrast: float
    waves: tuple[float, ...]  # frequencies and phases of the pattern


@dataclass(frozen=True)
class Light:
    """Light and camera of the whole picture. blur: standard deviation in pixels; noise: in units of white."""

    x: float
    y: float
    ambient: float
    gain: float
    warmth: float
    blur: float
    noise: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn. size: height and width in pixels; people from left to right."""

    size: tuple[int, int]
    people: tuple[Person, ...]
    background: Background
    light: Light
    seed: int
    level: str


def draw_scene(
    person_seeds: Sequence[int],
    seed: int,
    size: tuple[int, int] = (128, 128),
    level: str = "plain",
    *,
    shirt: Given = None,
    expression: Given = None,
    gaze: Given = None,
    turn: Given = None,
    background: str | None = None,
) -> Scene:
    """A scene of these people, left to right, drawn from a seed; names that are given are kept.

    shirt, expression, gaze, turn: one name for everybody, or one per person with None for chance. A name that is given
    changes nothing else in the picture, and the names stay when the size changes.
    Raises ValueError for unknown names, no or too many people, train and test people together, or a size that is not
    made of multiples of 8 pixels from 32 on.
    """
    _check(person_seeds, size, level)
    random = stream("scene", seed)
    behind = _draw_background(random, level, background)
    light = _draw_light(random, size)
    count = len(person_seeds)
    given = zip(
        _per_person("shirt", shirt, count, COLOUR_NAMES),
        _per_person("expression", expression, count, EXPRESSIONS),
        _per_person("gaze", gaze, count, GAZES),
        _per_person("turn", turn, count, TURNS),
        strict=True,
    )
    drawn = [
        _draw_person(stream(f"person {place}", seed), person, names, behind.name)
        for place, (person, names) in enumerate(zip(person_seeds, given, strict=True))
    ]
    return Scene((int(size[0]), int(size[1])), tuple(drawn), behind, light, seed, level)


def draw_reference(person_seed: int, seed: int = 0, size: tuple[int, int] = (256, 256)) -> Scene:
    """A reference photograph of one person: looking ahead with a neutral face, plain background, the rest by chance."""
    return draw_scene((person_seed,), seed, size, expression="neutral", gaze="ahead", turn="ahead")


def _draw_person(random: Random, person: int, names: tuple[str | None, ...], background: str) -> Person:
    others = tuple(name for name in COLOUR_NAMES if name != background)
    shirt, expression = one_of(random, others), one_of(random, EXPRESSIONS)
    gaze, turn = one_of(random, _GAZE_SHARES), one_of(random, _TURN_SHARES)
    shirt, expression, gaze, turn = (
        chosen or by_chance for chosen, by_chance in zip(names, (shirt, expression, gaze, turn), strict=True)
    )
    smile, mouth_open, brow_raise, lid = _draw_expression(random, expression)
    return Person(
        person, shirt, expression, gaze, turn,
        yaw=_sided(turn, between(random, -0.10, 0.10), between(random, 0.23, 0.36)),
        pitch=_bell(random) * 0.07,
        roll=_bell(random) * 0.06,
        x=between(random, -0.06, 0.06),
        y=between(random, -0.035, 0.035),
        scale=between(random, 0.66, 0.74),
        smile=smile, mouth_open=mouth_open, brow_raise=brow_raise, lid=lid,
        gaze_x=_sided(gaze, between(random, -0.12, 0.12), between(random, 0.75, 1.0)),
        gaze_y=between(random, -0.2, 0.2),
        shirt_colour=_varied(random, COLOURS[shirt]),
        neckline=between(random, 0.0, 1.0),
    )  # fmt: skip


def _draw_expression(random: Random, name: str) -> tuple[float, float, float, float]:
    """Smile (-1 to 1), mouth opening (0 to 1), how far the brows are raised, how far the lids are open."""
    strength, mouth, lid = between(random, 0.75, 1.0), random.random(), between(random, 0.92, 1.06)
    if name == "smiling":
        return strength, max(0.0, mouth - 0.35) * 0.7, 0.0, lid * 0.92
    if name == "surprised":
        return -0.1, 0.75 + 0.25 * mouth, 0.05 * strength, lid * 1.18
    if name == "sad":
        return -strength, 0.0, -0.005, lid * 0.88
    return between(random, -0.08, 0.15), 0.0, 0.0, lid


def _draw_background(random: Random, level: str, given: str | None) -> Background:
    by_chance = one_of(random, COLOUR_NAMES)
    name = _known("background", given, COLOUR_NAMES) or by_chance
    return Background(
        name,
        _varied(random, COLOURS[name]),
        between(random, -0.06, 0.06),
        one_of(random, ("stripes", "spots", "blobs")) if level == "busy" else "plain",
        between(random, 0.16, 0.26) if level == "busy" else 0.0,
        tuple(random.random() for _ in range(6)),
    )


def _draw_light(random: Random, size: tuple[int, int]) -> Light:
    return Light(
        x=_bell(random) * 0.5,
        y=between(random, -0.7, 0.1),
        ambient=between(random, 0.56, 0.70),
        gain=between(random, 0.93, 1.06),
        warmth=_bell(random) * 0.02,
        blur=between(random, 0.0, 0.36) * min(size) / 128,
        noise=between(random, 0.0, 0.012),
    )


def _bell(random: Random) -> float:
    """About normal with standard deviation 1, never beyond 2.5: a sum of even draws needs no transcendental."""
    return max(-2.5, min(2.5, sum(random.random() for _ in range(12)) - 6))


def _sided(name: str, ahead: float, aside: float) -> float:
    return {"ahead": ahead, "left": -aside, "right": aside}[name]


def _varied(random: Random, colour: Colour) -> Colour:
    """A colour a little lighter or darker and a little off in each channel."""
    level = between(random, 0.94, 1.04)
    red, green, blue = (min(1.0, max(0.0, part * level + between(random, -0.02, 0.02))) for part in colour)
    return red, green, blue


def _known(what: str, name: str | None, choices: tuple[str, ...]) -> str | None:
    if name is not None and name not in choices:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(choices)}")
    return name


def _per_person(what: str, given: Given, count: int, choices: tuple[str, ...]) -> tuple[str | None, ...]:
    names = (given,) * count if given is None or isinstance(given, str) else tuple(given)
    if len(names) != count:
        raise ValueError(f"{len(names)} names of {what} were given for {count} people")
    return tuple(_known(what, name, choices) for name in names)


def _check(person_seeds: Sequence[int], size: tuple[int, int], level: str) -> None:
    if not 1 <= len(person_seeds) <= MOST_PEOPLE:
        raise ValueError(f"a picture shows 1 to {MOST_PEOPLE} people, not {len(person_seeds)}")
    common_split(person_seeds)
    if any(side < 32 or side % 8 for side in size):
        raise ValueError(f"height and width must be multiples of 8 pixels from 32 on, not {size[0]} and {size[1]}")
    _known("level", level, LEVELS)
