"""Masks drawn by the user as identity weights: UniPortrait's region control."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def region_weights(masks: Tensor, size: tuple[int, int], keep_soft_edges: bool = False) -> Tensor:
    """Weights of the identities at each position of a layer, from one mask for each identity.

    masks (N, H, W) float in [0, 1] at any resolution; size is the layer's grid (h, w). Returns (1, h·w, N), row-major,
    in masks' dtype. Positions outside all masks get no identity, overlaps are shared by weight. The published rule
    divides by the sum, so a soft edge disappears where one mask stands alone; with keep_soft_edges only sums above 1
    are divided.
    """
    resized = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)  # (1, N, h, w)
    total = resized.sum(1, keepdim=True)
    weights = resized / total.clamp_min(1.0 if keep_soft_edges else 0.001)
    return weights.flatten(2).transpose(1, 2)


def image_prompt_weights(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights (1, h·w, 1) of the image prompt from one mask (H, W) in [0, 1], resized by nearest neighbour."""
    return F.interpolate(mask[None, None], size=size, mode="nearest").flatten(2).transpose(1, 2)
