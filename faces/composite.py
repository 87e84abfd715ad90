"""What EVA-CLIP sees of a person: the face in grey, everything that is not the person white (docs/pulid.md, 1.3).

Letters: B pictures, H, W their sides. Pixels are RGB in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NUM_LABELS = 19
# Of the parser's labels: background, both ears, earring, neck, necklace, clothes, hat. Hair (17) is kept.
WHITENED = (0, 7, 8, 9, 14, 15, 16, 18)

_GREY = (0.299, 0.587, 0.114)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def parser_input(pixels: Tensor) -> Tensor:
    """What the parser reads (B, 3, H, W), from pixels."""
    return _normalise(pixels, _IMAGENET_MEAN, _IMAGENET_STD)


def label_map(logits: Tensor) -> Tensor:
    """The likeliest label of each pixel (B, 1, H, W) uint8, from the parser's logits (B, 19, H, W)."""
    return logits.argmax(dim=1, keepdim=True).to(torch.uint8)


def composite(pixels: Tensor, labels: Tensor) -> Tensor:
    """The person in grey on white (B, 3, H, W), three equal channels; labels: (B, 1, H, W) uint8."""
    grey = (pixels * _channels(_GREY, pixels)).sum(dim=1, keepdim=True)
    white = torch.zeros(256, dtype=torch.bool, device=labels.device)
    white[list(WHITENED)] = True
    return grey.masked_fill(white[labels.long()].to(grey.device), 1.0).expand_as(pixels)


def composite_pictures(composites: Tensor) -> np.ndarray:
    """Composites (B, 3, H, W) as pictures (B, H, W, 3) uint8, to look at."""
    return (composites.clamp(0, 1) * 255).round().to("cpu", torch.uint8).movedim(1, -1).numpy()


def clip_input(composites: Tensor, size: int, antialias: bool) -> Tensor:
    """CLIP's normalised input (B, 3, size, size) float32 from composites (B, 3, H, W); bicubic, overshoot stays.

    antialias: False is what PuLID v1's pinned library did, True that of v1.1 and FLUX.
    """
    resized = F.interpolate(composites.float(), (size, size), mode="bicubic", antialias=antialias)
    return _normalise(resized, _CLIP_MEAN, _CLIP_STD)


def _normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (pixels - _channels(mean, pixels)) / _channels(std, pixels)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
