"""Which hair and which beard a person wears, as numbers that the drawing understands."""

from __future__ import annotations

from random import Random

from .randomness import between, chance, one_of

Range = tuple[float, float]

_COLOURS = (
    (22, 18, 17), (52, 34, 24), (98, 62, 34), (156, 106, 56), (222, 186, 116), (170, 72, 30), (148, 148, 150),
    (228, 226, 222),
)  # fmt: skip

# Per style: line, drop, top, side, fringe, curl, length, bun, cover. Ranges are drawn evenly.
_NUMBERS = ("hair_line", "hair_drop", "hair_top", "hair_side", "hair_fringe", "hair_curl", "hair_length", "hair_bun")
_STYLES: dict[str, tuple[Range, ...]] = {
    "bald": ((0.9, 0.9), (0.2, 0.2), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
    "cropped": ((0.55, 0.72), (0.60, 0.75), (0.02, 0.03), (0.015, 0.02), (0, 0), (0, 0), (0, 0), (0, 0)),
    "short": ((0.52, 0.70), (0.60, 0.80), (0.09, 0.20), (0.03, 0.07), (0, 0), (0, 0.5), (0, 0), (0, 0)),
    "fringe": ((0.55, 0.60), (0.45, 0.60), (0.08, 0.14), (0.06, 0.09), (1, 1), (0, 0.3), (0, 0), (0, 0)),
    "bob": ((0.52, 0.68), (1.10, 1.30), (0.10, 0.16), (0.12, 0.18), (0, 0), (0, 0.6), (0.62, 0.90), (0, 0)),
    "bob with fringe": ((0.55, 0.60), (1.0, 1.2), (0.10, 0.14), (0.12, 0.18), (1, 1), (0, 0), (0.62, 0.90), (0, 0)),
    "long": ((0.52, 0.68), (1.10, 1.40), (0.08, 0.14), (0.10, 0.16), (0, 0), (0, 0.8), (1.25, 1.45), (0, 0)),
    "curly": ((0.50, 0.62), (0.75, 0.90), (0.24, 0.36), (0.20, 0.30), (0, 0), (1, 1), (0, 0), (0, 0)),
    "bun": ((0.58, 0.68), (0.50, 0.62), (0.06, 0.09), (0.03, 0.05), (0, 0), (0, 0.2), (0, 0), (0.24, 0.34)),
}  # fmt: skip
HAIR_STYLES = tuple(_STYLES)


def draw_hair(random: Random) -> dict[str, float | tuple[float, float, float]]:
    """Colour and shape of the hair; fields of `Identity`."""
    style = one_of(random, HAIR_STYLES)
    numbers = {name: between(random, *limits) for name, limits in zip(_NUMBERS, _STYLES[style], strict=True)}
    red, green, blue = _COLOURS[int(random.random() * len(_COLOURS))]
    light = between(random, 0.85, 1.12) / 255
    return {
        **numbers,
        "hair_colour": (red * light, green * light, blue * light),
        "hair": {"bald": 0.0, "cropped": 0.82}.get(style, 1.0),
        "hair_part": between(random, -1.0, 1.0),
    }


def draw_beard(random: Random) -> dict[str, float]:
    """Density and shape of the beard; fields of `Identity`."""
    style = one_of(random, ("full", "stubble", "moustache", "goatee")) if chance(random, 0.36) else "none"
    full = style in ("full", "stubble")
    return {
        "beard": {"none": 0.0, "stubble": between(random, 0.3, 0.5)}.get(style, between(random, 0.85, 0.95)),
        "beard_cheeks": float(full),
        "beard_chin": float(full or style == "goatee"),
        "moustache": float(style != "none"),
    }
