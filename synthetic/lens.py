"""What the camera does to a picture: exposure, white balance, blur and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .scene import Scene

_REACH = 2  # pixels of blur to each side
_INVISIBLE = 0.12  # a blur of less pixels changes no value by more than 1/255


def through_the_lens(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Pictures (B, 3, H, W) as the camera gives them, within 0 and 1."""
    lights = [scene.light for scene in scenes]
    exposure = [[light.gain * (1 + light.warmth), light.gain, light.gain * (1 - light.warmth)] for light in lights]
    pictures = pictures * torch.tensor(exposure, device=pictures.device)[:, :, None, None]
    pictures = _blurred(pictures, [light.blur for light in lights])
    noise = torch.stack([_noise(scene) for scene in scenes]).to(pictures.device)
    return (pictures + noise).clamp(0, 1)


def _noise(scene: Scene) -> Tensor:
    """Noise (3, H, W), always drawn on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(scene.seed)
    return torch.randn(3, *scene.size, generator=generator) * scene.light.noise


def _blurred(pictures: Tensor, sigmas: list[float]) -> Tensor:
    rows = [row for row, sigma in enumerate(sigmas) if sigma > _INVISIBLE]
    if not rows:
        return pictures
    weights = torch.tensor([_kernel(sigmas[row]) for row in rows], device=pictures.device)[:, :, None, None, None]
    height, width = pictures.shape[2:]
    part = F.pad(pictures[rows], (_REACH,) * 4, mode="replicate")
    part = sum(weights[:, step] * part[:, :, step : step + height] for step in range(2 * _REACH + 1))
    part = sum(weights[:, step] * part[..., step : step + width] for step in range(2 * _REACH + 1))
    pictures[rows] = part
    return pictures


def _kernel(sigma: float) -> list[float]:
    raw = [math.exp(-(step * step) / (2 * sigma * sigma)) for step in range(-_REACH, _REACH + 1)]
    return [value / sum(raw) for value in raw]
