"""Pictures with boxes around faces and what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFont

from ..faces.drawing import draw_box

GOOD, BAD, UNKNOWN = "#009E73", "#D55E00", "#F0E442"  # of Okabe and Ito: told apart by most colour-blind people


@dataclass(frozen=True)
class Mark:
    """A box in pixels (x1, y1, x2, y2) with a text above it."""

    box: tuple[float, float, float, float]
    text: str
    colour: str


def draw_marks(image: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB with marks; lines and letters grow with it, and texts stay inside."""
    canvas = Image.fromarray(image)
    for mark in reversed(marks):  # the first on top
        draw_box(canvas, mark.box, mark.text, mark.colour)
    return np.array(canvas)


def fitting_text(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
