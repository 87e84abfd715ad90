"""The losses of docs/uniportrait.md, section 11, for each sample.

Letters: B samples, N identities, H, W pixels, h, w grid of a layer, n = h·w.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...adapters.routing import soft_routing
from .settings import RoutingSettings


def noisy_latents(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """z_t = √ᾱ·z₀ + √(1-ᾱ)·ε; latents and noise (B, c, h, w), alphas_cumprod (B,): ᾱ at each sample's timestep."""
    alphas = _per_sample(alphas_cumprod)
    return alphas.sqrt() * latents + (1.0 - alphas).sqrt() * noise


def prediction_target(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, prediction_type: str) -> Tensor:
    """What the U-Net should say: ε, or v = √ᾱ·ε - √(1-ᾱ)·z₀."""
    if prediction_type == "epsilon":
        return noise
    assert prediction_type == "v_prediction", prediction_type
    alphas = _per_sample(alphas_cumprod)
    return alphas.sqrt() * noise - (1.0 - alphas).sqrt() * latents


def diffusion_loss(
    predicted: Tensor, target: Tensor, alphas_cumprod: Tensor, prediction_type: str, min_snr_gamma: float | None
) -> Tensor:
    """Mean squared error of each sample, (B,) float32, with min-SNR weights if gamma is given (arXiv 2303.09556)."""
    loss = (predicted.float() - target.float()).square().flatten(1).mean(1)
    if min_snr_gamma is None:
        return loss
    snr = alphas_cumprod / (1.0 - alphas_cumprod)
    clipped = snr.clamp(max=min_snr_gamma)
    # The weight of z₀'s error is min(SNR, γ); ε's is SNR and v's SNR + 1 times smaller for the same error.
    return loss * (clipped / (snr if prediction_type == "epsilon" else snr + 1.0)).to(loss)


def routing_targets(masks: Tensor, size: tuple[int, int], settings: RoutingSettings) -> Tensor:
    """M on a layer's grid, (B, N, h, w) float32, from masks (B, N, H, W) bool: whose face a position is.

    A position belongs to a face if more than the threshold of it is covered; a face that nowhere reaches it keeps the
    position of its centre. Positions of several faces are shared, or the smaller one's.
    """
    covered = F.interpolate(masks.float(), size=size, mode="area")
    inside = covered > settings.mask_threshold
    inside = inside | (_centres(masks, size) & ~inside.flatten(2).any(-1)[..., None, None])
    targets = inside.float()
    if settings.overlap == "divide":
        return targets / targets.sum(1, keepdim=True).clamp_min(1.0)
    area = masks.flatten(2).sum(-1)[..., None, None].float()
    smallest = torch.where(inside, area, torch.inf).argmin(1, keepdim=True)
    return targets * torch.zeros_like(targets).scatter_(1, smallest, 1.0)


def routing_loss(
    logits: Mapping[int, Tensor],
    masks: Tensor,
    valid: Tensor,
    sizes: Mapping[int, tuple[int, int]],
    settings: RoutingSettings,
) -> Tensor:
    """λ times the mean over the layers of Σ W·(ψ - M)² / (N·max(ΣW, 1)), for each sample: (B,) float32.

    logits: layer -> (B, n, N) without noise; masks (B, N, H, W) bool; valid (B, N); sizes: layer -> (h, w). W is 1
    where any face is. N counts the sample's own faces.
    """
    masks = masks & valid[..., None, None]
    num_faces = valid.sum(1).clamp_min(1)
    targets = {size: routing_targets(masks, size, settings) for size in set(sizes.values())}
    total = torch.zeros(len(masks), device=masks.device)
    for number, values in logits.items():
        target = targets[sizes[number]].flatten(2).transpose(1, 2)  # (B, n, N)
        union = (target.sum(-1) > 0).float()
        error = (soft_routing(values, valid) - target).square().sum(-1)  # (B, n)
        area = union.sum(1).clamp_min(1.0) if settings.normalisation == "mean" else 1.0
        total = total + (union * error).sum(1) / (num_faces * area)
    return settings.loss_weight * total / len(logits)


def _centres(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, h, w) bool: the position of the centre of each mask's bounding box; nothing for an empty mask."""
    along = []
    for axis, length in ((3, size[0]), (2, size[1])):
        line = masks.any(axis).float()  # (B, N, H) or (B, N, W)
        extent = line.shape[-1]
        first, last = line.argmax(-1), extent - line.flip(-1).argmax(-1)
        cell = ((first + last) * length // (2 * extent)).clamp(max=length - 1)
        along.append(F.one_hot(cell, length).bool())
    rows, columns = along
    return rows[..., :, None] & columns[..., None, :] & masks.flatten(2).any(-1)[..., None, None]


def _per_sample(values: Tensor) -> Tensor:
    return values[:, None, None, None]
