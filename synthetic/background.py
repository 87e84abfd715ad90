"""Plain and busy backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .scene import Background


def paint_backgrounds(backgrounds: Sequence[Background], height: int, width: int, device: torch.device | str) -> Tensor:
    """Backgrounds (B, 3, height, width) float32; patterns are darker and lighter shades of the named colour."""
    shortest = min(height, width)
    y = ((torch.arange(height, device=device) + 0.5) * (2 / shortest))[:, None] - height / shortest
    x = ((torch.arange(width, device=device) + 0.5) * (2 / shortest))[None, :] - width / shortest
    rows = []
    for background in backgrounds:
        colour = torch.tensor(background.colour, device=device)[:, None, None]
        shade = 1 - background.slope * (y * (shortest / height)).expand(height, width)
        if background.pattern != "plain":
            shade = shade + background.contrast * (_pattern(background, x, y) - 0.35)
        rows.append(colour * shade)
    return torch.stack(rows)


def _pattern(background: Background, x: Tensor, y: Tensor) -> Tensor:
    """A picture from -1 to 1."""
    a, b, c, d, e, f = background.waves
    if background.pattern == "stripes":
        return torch.tanh(3 * torch.sin(x * (2 + 7 * a) + y * (12 * b - 6) + 6.28 * c))
    if background.pattern == "spots":
        return torch.tanh(4 * (torch.sin(x * (6 + 5 * a) + 6.28 * c) * torch.sin(y * (6 + 5 * b) + 6.28 * d) - 0.3))
    first = torch.sin(x * (1 + 3 * a) + y * (1 + 3 * b) + 6.28 * c)
    return (first + torch.sin(x * (4 * d - 6 * e) + y * (2 + 3 * f) + 6.28 * e)) / 2
