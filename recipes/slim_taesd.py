"""TAESD's autoencoder with fewer channels where pictures are large: it fits into TAESD with zeros in the others.

ComfyUI and diffusers know TAESD at one width only, 64. Layer numbers and names are TAESD's own, so filling every tensor
up with zeros is all it takes; channels that are added give zero and are not heard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from ..demo.tiny_sizes import TinySizes
from ..demo.trained import widened

WIDTHS = (16, 32, 64, 64)  # from the picture's size to an eighth of it
BLOCKS = (1, 3, 3, 3)
COLOUR_GAIN = 4.0  # latents of colours have about unit variance


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
def pass_colours_through(slim: SlimTAESD) -> None:
    """Start from weights that give back the picture, blurred 8 to 1: learning begins with what is finer than that.

    Three latent channels carry the colours, as pairs x and -x through the ReLUs: relu(a) - relu(-a) = a. The encoder
    averages 2 x 2 pixels where it halves the size, the decoder smooths where it doubles it. Blocks begin as nothing
    but their shortcut, nearly.
    """
    pairs = torch.eye(3).repeat_interleave(2, 0)
    pairs[1::2] *= -1  # (6, 3): r, -r, g, -g, b, -b
    average, identity = torch.zeros(3, 3), torch.zeros(3, 3)
    average[1:, 1:], identity[1, 1] = 0.25, 1.0
    smooth = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    encoder, decoder = slim.taesd_encoder, slim.taesd_decoder
    for layers, kernel in ((encoder, average), (decoder, smooth)):
        for layer in layers:
            if isinstance(layer, Block):
                layer.conv[-1].weight *= 0.1
                layer.conv[-1].bias *= 0.1
                layer.conv[-1].weight[:6] = 0
                layer.conv[-1].bias[:6] = 0
            elif isinstance(layer, nn.Conv2d) and layer.bias is None:  # halves or doubles the size
                _set_rows(layer, torch.eye(6), kernel)
    _set_rows(encoder[0], pairs, identity)
    encoder[0].bias[:6] = torch.tensor([-0.5, 0.5]).repeat(3)  # colours around mid-grey
    _set_rows(encoder[-1], COLOUR_GAIN * pairs.T, identity)
    _set_rows(decoder[1], pairs, identity)
    decoder[1].bias[:6] = 0
    _set_rows(decoder[-1], pairs.T / COLOUR_GAIN, identity)
    decoder[-1].bias.fill_(0.5)


def _set_rows(layer: nn.Conv2d, rows: Tensor, kernel: Tensor) -> None:
    """Let the first outputs see the first inputs only, through the matrix `rows`, with one kernel."""
    outputs, inputs = rows.shape
    layer.weight[:outputs] = 0
    layer.weight[:outputs, :inputs] = rows[:, :, None, None] * kernel
