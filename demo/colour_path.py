"""A straight path for colours through TAESD's layers: decoding what was encoded gives the picture, blurred 8 to 1.

Random weights need it to show pictures at all, and training that starts from it learns only what is finer than that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

COLOUR_GAIN = 4.0  # latents of colours have about unit variance
CHANNELS = 6  # of every layer in between: r, -r, g, -g, b, -b


@torch.no_grad()
def pass_colours_through(taesd: Mapping[str, Tensor]) -> None:
    """Change TAESD's weights in place so that the first three latent channels carry the colours.

    They go as pairs x and -x through the ReLUs: relu(a) - relu(-a) = a. The encoder averages 2 x 2 pixels where it
    halves the size, the decoder smooths where it doubles it. Weights beside the path stay what they are.
    """
    pairs = torch.eye(3).repeat_interleave(2, 0)
    pairs[1::2] *= -1
    average, identity = torch.zeros(3, 3), torch.zeros(3, 3)
    average[1:, 1:], identity[1, 1] = 0.25, 1.0
    smooth = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    for key, tensor in taesd.items():
        if ".conv.4." in key:  # the last convolution of a block: what it adds to the pairs
            tensor[:CHANNELS] = 0
    for coder, numbers, kernel in (("encoder", (2, 6, 10), average), ("decoder", (7, 12, 17), smooth)):
        for number in numbers:
            _set_rows(taesd[f"taesd_{coder}.{number}.weight"], torch.eye(CHANNELS), kernel)
    _set_rows(taesd["taesd_encoder.0.weight"], pairs, identity)
    taesd["taesd_encoder.0.bias"][:CHANNELS] = torch.tensor([-0.5, 0.5]).repeat(3)  # colours around mid-grey
    _set_rows(taesd["taesd_encoder.14.weight"], COLOUR_GAIN * pairs.T, identity)
    _set_rows(taesd["taesd_decoder.1.weight"], pairs, identity)
    taesd["taesd_decoder.1.bias"][:CHANNELS] = 0
    taesd["taesd_decoder.19.weight"][:, :CHANNELS] = pairs.T[:, :, None, None] * identity / COLOUR_GAIN
    taesd["taesd_decoder.19.bias"].fill_(0.5)


def _set_rows(weight: Tensor, matrix: Tensor, kernel: Tensor) -> None:
    """Set the first rows of a convolution to `matrix` (rows, inputs) times `kernel` (3, 3), and nothing from others."""
    rows, inputs = matrix.shape
    weight[:rows] = 0
    weight[:rows, :inputs] = matrix[:, :, None, None] * kernel
