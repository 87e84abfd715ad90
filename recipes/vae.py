"""Training the autoencoder on the world's pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .loop import Average, Loop
from .recipe import Training
from .slim_taesd import SlimTAESD, start_from_colours

LATENT_NOISE = 0.05  # the decoder learns to overlook what a sampler leaves
UNIT_WEIGHT = 0.05
EDGE_WEIGHT = 1.0
CROP = 32  # trained on parts of pictures: the network is convolutional, and steps count more than borders


def train_vae(
    folder: Path,
    training: Training,
    pictures: Tensor,
    latent_channels: int,
    device: torch.device,
    say: Callable[[str], None],
) -> SlimTAESD:
    """Train on uint8 pictures (n, H, W, 3) and return the averaged network."""
    torch.manual_seed(0)
    vae = SlimTAESD(latent_channels)
    start_from_colours(vae)
    vae = vae.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), training.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    average = Average(vae, 0.999)

    def step(number: int, generator: torch.Generator) -> dict[str, Tensor]:
        warm = min(1.0, (number + 1) / 200) * min(1.0, max(0.05, (training.steps - number) / (0.3 * training.steps)))
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * warm
        rows = torch.randint(len(pictures), (training.batch,), generator=generator)
        pixels = _parts(pictures[rows], generator).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        latents = vae.encode(pixels)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        drawn = vae.decode(latents + LATENT_NOISE * noise)
        losses = {"pixel": F.l1_loss(drawn, pixels), "edge": _edges(drawn, pixels), "unit": _unit(latents)}
        loss = losses["pixel"] + EDGE_WEIGHT * losses["edge"] + UNIT_WEIGHT * losses["unit"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        average.update(vae, number)
        return losses

    Loop("vae", folder, training.steps, {"vae": vae, "optimiser": optimiser, "average": average}, say).run(step)
    average.copy_to(vae)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(vae: SlimTAESD, pictures: Tensor, device: torch.device, batch: int = 64) -> Tensor:
    """Latents (n, c, H/8, W/8) float16 of uint8 pictures (n, H, W, 3)."""
    chunks = []
    for rows in pictures.split(batch):
        pixels = rows.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        chunks.append(vae.encode(pixels.contiguous(memory_format=torch.channels_last)).half().cpu())
    return torch.cat(chunks)


def _parts(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A square of CROP pixels of each picture (B, H, W, 3), from anywhere."""
    tops = torch.randint(pictures.shape[1] - CROP + 1, (len(pictures),), generator=generator).tolist()
    lefts = torch.randint(pictures.shape[2] - CROP + 1, (len(pictures),), generator=generator).tolist()
    parts = [row[y : y + CROP, x : x + CROP] for row, y, x in zip(pictures, tops, lefts, strict=True)]
    return torch.stack(parts)


def _edges(drawn: Tensor, true: Tensor) -> Tensor:
    """L1 between neighbouring differences: edges are what a plain L1 blurs."""
    difference = drawn - true
    return (difference[..., 1:] - difference[..., :-1]).abs().mean() + (
        difference[..., 1:, :] - difference[..., :-1, :]
    ).abs().mean()


def _unit(latents: Tensor) -> Tensor:
    """How far each channel is from zero mean and unit variance."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return mean.square().mean() + (variance.clamp_min(1e-4).log()).square().mean()
