"""Painting with soft edges on a batch of pictures."""

from __future__ import annotations

import torch
from torch import Tensor


def soft(inside: Tensor, sharpness: Tensor) -> Tensor:
    """Cover 0 to 1 of a shape from signed distances (positive inside) and how fast it goes from none to full."""
    return torch.sigmoid(inside * sharpness)


def bump(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """exp(-(x/width)² - (y/height)²), 0 far out, where denormal numbers would cost a core twenty times the time."""
    return torch.exp(((x / width).square() + (y / height).square()).clamp(max=20).neg())


def tint(colours: Tensor, cover: Tensor, paint: Tensor) -> None:
    """Paint (P, 3, 1|h, 1|w) over colours (P, 3, h, w), in place, where cover (P, h, w) says so."""
    colours.lerp_(paint.expand_as(colours), cover[:, None].expand_as(colours))


class Layer:
    """Colours (P, 3, h, w), multiplied with their cover (P, h, w): what is drawn of people before a background."""

    def __init__(self, colours: Tensor, cover: Tensor) -> None:
        self.colours = colours
        self.cover = cover

    def window(self, part: tuple[slice, slice]) -> Layer:
        """These rows and columns only: what is painted there is painted here."""
        return Layer(self.colours[:, :, part[0], part[1]], self.cover[:, part[0], part[1]])

    def put(self, cover: Tensor, paint: Tensor, rows: list[int] | None = None) -> None:
        """Paint over what is there; rows: whose pictures, all by default."""
        if rows is None:
            tint(self.colours, cover, paint)
            self.cover += cover * (1 - self.cover)
            return
        colours, below = self.colours[rows], self.cover[rows]
        tint(colours, cover, paint)
        self.colours[rows] = colours
        self.cover[rows] = below + cover * (1 - below)
