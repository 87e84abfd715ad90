"""Pictures of what was found: numbered boxes with landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .types import Faces

# Told apart by most colour-blind people too: Okabe and Ito's set without those too dark for a black number on them.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7")
_SMALLEST_TEXT = 12


def numbered_preview(faces: Faces) -> list[np.ndarray]:
    """Each picture (H, W, 3) uint8 RGB with its faces' boxes, landmarks and numbers.

    The numbers are those that the rule "by number" takes: positions in `faces`, from 1, over all pictures. Lines and
    letters grow with the picture.
    """
    previews = []
    for index, image in enumerate(faces.images):
        canvas = Image.fromarray(image)
        marked = [(number, face) for number, face in enumerate(faces, start=1) if face.image_index == index]
        for number, face in reversed(marked):  # the largest on top
            draw_box(canvas, face.box, str(number), _COLOURS[(number - 1) % len(_COLOURS)], face.landmarks.tolist())
        previews.append(np.array(canvas))
    return previews


def draw_box(
    canvas: Image.Image,
    box: Sequence[float],
    text: str,
    colour: str,
    landmarks: Sequence[Sequence[float]] = (),
) -> None:
    """Draw a box (x1, y1, x2, y2) in pixels, landmarks (x, y) on it, and above them a text on a plate.

    Lines and letters grow with the picture.
    """
    draw = ImageDraw.Draw(canvas)
    unit = max(1, round(min(canvas.size) / 250))
    x1, y1, x2, y2 = box
    # A dark line under the coloured one keeps it visible on any background.
    draw.rectangle((x1 - unit, y1 - unit, x2 + unit, y2 + unit), outline="black", width=3 * unit)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=unit)
    for x, y in landmarks:
        _draw_dot(draw, x, y, 2 * unit, "black")
        _draw_dot(draw, x, y, 1.4 * unit, colour)
    _draw_plate(draw, canvas.size, box, text, colour, unit)


def _draw_plate(
    draw: ImageDraw.ImageDraw, size: Sequence[int], box: Sequence[float], text: str, colour: str, unit: int
) -> None:
    """The text on a plate above the box, or inside it where there is no room above, never outside the picture."""
    font = ImageFont.load_default(max(_SMALLEST_TEXT, 9 * unit))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4 * unit, bottom - top + 4 * unit
    x = max(0.0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else max(0.0, min(box[1], size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour, outline="black", width=unit)
    draw.text((x + 2 * unit - left, y + 2 * unit - top), text, fill="black", font=font)


def _draw_dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
