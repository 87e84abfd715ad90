"""Routing maps as colours over a picture, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..model_patches.routing_maps import NOBODY

# Okabe and Ito's set, which most colour-blind people tell apart, then three that differ from it in lightness.
COLOURS = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#FFFFFF",
    "#444444",
    "#882255",
)
_SMALLEST_TEXT = 11


def overlay(pictures: torch.Tensor, winners: torch.Tensor, opacity: float) -> torch.Tensor:
    """Pictures (B, H, W, 3) in [0, 1], tinted by identity where there is one; winners (B, h, w), 255 for none."""
    size = pictures.shape[1:3]
    index = F.interpolate(winners[:, None].float(), size, mode="nearest")[:, 0].long()
    nobody = index == NOBODY
    palette = torch.tensor([ImageColor.getrgb(colour) for colour in COLOURS], dtype=torch.float32) / 255
    tint = palette[index.masked_fill(nobody, 0) % len(COLOURS)]
    alpha = torch.where(nobody, 0.0, opacity)[..., None]
    return pictures + (tint - pictures) * alpha


def draw_legend(picture: torch.Tensor, labels: Sequence[str], caption: str) -> torch.Tensor:
    """A picture (H, W, 3) in [0, 1] with the labels beside their colours in its lower left corner."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    canvas = Image.fromarray(pixels.numpy())
    draw = ImageDraw.Draw(canvas)
    line = max(_SMALLEST_TEXT, min(canvas.size) // 32)
    font = ImageFont.load_default(line)
    rows: list[tuple[str | None, str]] = [(None, caption)] if caption else []
    rows += [(COLOURS[number % len(COLOURS)], label) for number, label in enumerate(labels)]
    pitch = round(line * 1.4)
    width = round(max(draw.textlength(text, font=font) for _, text in rows) + 2.2 * pitch)
    top = canvas.height - pitch * len(rows) - pitch // 2
    draw.rectangle((0, top, width, canvas.height), fill="black")
    for number, (colour, text) in enumerate(rows):
        y = top + pitch // 4 + number * pitch
        if colour is not None:
            draw.rectangle((pitch // 4, y + pitch // 8, pitch, y + pitch * 7 // 8), fill=colour)
        draw.text((round(1.4 * pitch), y), text, fill="white", font=font)
    return torch.from_numpy(np.array(canvas)).float() / 255
