"""Pictures with boxes around faces and what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GOOD, BAD, UNKNOWN = "#009E73", "#D55E00", "#F0E442"  # of Okabe and Ito: told apart by most colour-blind people

_SMALLEST_TEXT = 12


@dataclass(frozen=True)
class Mark:
    """A box in pixels (x1, y1, x2, y2) with a text above it."""

    box: tuple[float, float, float, float]
    text: str
    colour: str


def draw_marks(image: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB with marks; lines and letters grow with it, and texts stay inside."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    unit = max(1, round(min(canvas.size) / 250))
    for mark in reversed(marks):  # the first on top
        x1, y1, x2, y2 = mark.box
        # A dark line under the coloured one keeps it visible on any background.
        draw.rectangle((x1 - unit, y1 - unit, x2 + unit, y2 + unit), outline="black", width=3 * unit)
        draw.rectangle(mark.box, outline=mark.colour, width=unit)
        _draw_plate(draw, canvas.size, mark, unit)
    return np.array(canvas)


def fitting_text(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _draw_plate(draw: ImageDraw.ImageDraw, size: tuple[int, int], mark: Mark, unit: int) -> None:
    font = ImageFont.load_default(max(_SMALLEST_TEXT, 9 * unit))
    left, top, right, bottom = draw.textbbox((0, 0), mark.text, font=font)
    width, height = right - left + 4 * unit, bottom - top + 4 * unit
    x = max(0.0, min(mark.box[0], size[0] - width))
    y = mark.box[1] - height if mark.box[1] >= height else max(0.0, min(mark.box[1], size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=mark.colour, outline="black", width=unit)
    draw.text((x + 2 * unit - left, y + 2 * unit - top), mark.text, fill="black", font=font)
