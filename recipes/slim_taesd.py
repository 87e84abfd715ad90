"""TAESD's autoencoder with fewer channels where pictures are large: it fits into TAESD with zeros in the others.

ComfyUI and diffusers know TAESD at one width only, 64. Layer numbers and names are TAESD's own, so filling every tensor
up with zeros is all it takes; channels that are added give zero and are not heard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from ..demo.colour_path import pass_colours_through
from ..demo.tiny_sizes import TinySizes
from ..demo.trained import widened

WIDTHS = (16, 32, 64, 64)  # from the picture's size to an eighth of it
BLOCKS = (1, 3, 3, 3)


class Block(nn.Module):
    """Three convolutions around which the input is carried."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).relu()


class Clamp(nn.Module):
    """Keeps latents within ±3, softly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class SlimTAESD(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to latents (B, c, H/8, W/8) and back."""

    def __init__(self, latent_channels: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        down: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
        up: list[nn.Module] = [Clamp(), nn.Conv2d(latent_channels, widths[-1], 3, padding=1), nn.ReLU()]
        for level, (width, blocks) in enumerate(zip(widths, BLOCKS, strict=True)):
            if level:
                down.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1, bias=False))
            down.extend(Block(width) for _ in range(blocks))
        for level in reversed(range(len(widths))):
            up.extend(Block(widths[level]) for _ in range(BLOCKS[level]))
            if level:
                up += [
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(widths[level], widths[level - 1], 3, padding=1, bias=False),
                ]
        self.taesd_encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent_channels, 3, padding=1))
        self.taesd_decoder = nn.Sequential(*up, nn.Conv2d(widths[0], 3, 3, padding=1))

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of about zero mean and unit variance."""
        return self.taesd_encoder(pixels * 0.5 + 0.5)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels; slightly outside [-1, 1] where the network overshoots."""
        return self.taesd_decoder(latents) * 2 - 1


def autoencoder_tiny(slim: SlimTAESD, sizes: TinySizes) -> AutoencoderTiny:
    """The same autoencoder as diffusers knows it, at full width."""
    full = AutoencoderTiny(latent_channels=sizes.latent_channels, scaling_factor=1.0)
    wide = widened(slim.state_dict(), sizes)
    full.load_state_dict({key: wide[_taesd_name(key)] for key in full.state_dict()})
    return full.eval().requires_grad_(False)


def _taesd_name(key: str) -> str:
    """diffusers' name of a tensor -> TAESD's, whose decoder counts its clamp as layer 0."""
    coder, _, number, rest = key.split(".", 3)
    return f"taesd_{coder}.{int(number) + (coder == 'decoder')}.{rest}"


@torch.no_grad()
def start_from_colours(slim: SlimTAESD) -> None:
    """Start from weights that give back the colours: blocks begin as little more than their shortcut."""
    for block in slim.modules():
        if isinstance(block, Block):
            block.conv[-1].weight *= 0.1
            block.conv[-1].bias *= 0.1
    slim.taesd_decoder[-1].weight.zero_()
    pass_colours_through(slim.state_dict())
