"""The slim autoencoder: TAESD's layers at half its width, so that it fits into TAESD with zeros in the other half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from .loop import Average, Loop
from .recipe import Training

WIDTH = 32
COLOUR_GAIN = 4.0  # colours spread over about unit variance
LATENT_NOISE = 0.1  # the decoder learns to overlook what a sampler leaves
UNIT_WEIGHT = 0.05
EDGE_WEIGHT = 1.0
CROP = 32  # trained on parts of pictures: the network is convolutional, and steps count more than borders


def new_vae(latent_channels: int) -> AutoencoderTiny:
    """Latents have an eighth of the picture's side, about zero mean and unit variance."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        latent_channels=latent_channels,
        scaling_factor=1.0,
    )


@torch.no_grad()
def pass_colours_through(vae: AutoencoderTiny) -> None:
    """Start from weights that give back the picture, blurred 8 to 1: learning begins with what is finer than that.

    Three latent channels carry the colours, as pairs x and -x through the ReLUs: relu(a) - relu(-a) = a. The encoder
    averages 2 x 2 pixels where it halves the size, the decoder smooths where it doubles it.
    """
    pairs = torch.eye(3).repeat_interleave(2, 0)
    pairs[1::2] *= -1  # (6, 3): r, -r, g, -g, b, -b
    average, identity = torch.zeros(3, 3), torch.zeros(3, 3)
    average[1:, 1:], identity[1, 1] = 0.25, 1.0
    smooth = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    encoder, decoder = vae.encoder.layers, vae.decoder.layers
    for block in (*encoder, *decoder):
        if hasattr(block, "conv"):
            block.conv[-1].weight *= 0.5
            block.conv[-1].weight[:6] = 0  # what a block adds to the colours
            block.conv[-1].bias[:6] = 0
    for layers, kernel in ((encoder, average), (decoder, smooth)):
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is None:  # halves or doubles the size
                _set_rows(layer, torch.eye(6), kernel)
    _set_rows(encoder[0], pairs, identity)
    encoder[0].bias[:6] = torch.tensor([-0.5, 0.5]).repeat(3)  # colours around mid-grey
    _set_rows(encoder[-1], COLOUR_GAIN * pairs.T, identity)
    _set_rows(decoder[0], pairs, identity)
    decoder[0].bias[:6] = 0
    _set_rows(decoder[-1], pairs.T / COLOUR_GAIN, identity)
    decoder[-1].bias.fill_(0.5)


def _set_rows(layer: nn.Conv2d, rows: Tensor, kernel: Tensor) -> None:
    """Let the first outputs see the first inputs only, through the matrix `rows`, with one kernel."""
    outputs, inputs = rows.shape
    layer.weight[:outputs] = 0
    layer.weight[:outputs, :inputs] = rows[:, :, None, None] * kernel


def train_vae(
    folder: Path,
    training: Training,
    pictures: Tensor,
    latent_channels: int,
    device: torch.device,
    say: Callable[[str], None],
) -> AutoencoderTiny:
    """Train on uint8 pictures (n, H, W, 3) and return the averaged network."""
    torch.manual_seed(0)
    vae = new_vae(latent_channels)
    pass_colours_through(vae)
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
        latents = vae.encode(pixels).latents
        noise = torch.randn(latents.shape, generator=generator).to(device)
        drawn = vae.decode(latents + LATENT_NOISE * noise).sample
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
def encode_all(vae: AutoencoderTiny, pictures: Tensor, device: torch.device, batch: int = 64) -> Tensor:
    """Latents (n, c, H/8, W/8) float16 of uint8 pictures (n, H, W, 3)."""
    chunks = []
    for rows in pictures.split(batch):
        pixels = rows.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        chunks.append(vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents.half().cpu())
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
