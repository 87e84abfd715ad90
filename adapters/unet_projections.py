"""A token projection for each cross-attention layer of an SDXL-shaped UNet: as modules, and as a file holds them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from .attention import Operations
from .checkpoint import Checkpoint, CheckpointError
from .layers import SDXL_LAYERS, AttentionLayer, sdxl_layers_of_widths
from .projection import TokenProjection


def unet_layers(hidden: Sequence[int]) -> tuple[AttentionLayer, ...]:
    """The layers of the SDXL-shaped UNet whose attention layers have these widths; none for no widths."""
    if not hidden:
        return ()
    layers = sdxl_layers_of_widths(hidden[1::2])
    assert layers is not None, f"no SDXL UNet has layers of the widths {hidden}"
    return layers


def unet_projections(
    hidden: Sequence[int],
    context: int,
    operations: Operations = nn,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.ModuleDict:
    """Keys and values of tokens `context` wide, by the released number of the layer: "1" to "139" in SDXL."""
    cross = {str(layer.number): hidden[layer.number] for layer in unet_layers(hidden) if layer.is_cross}
    return nn.ModuleDict(
        {number: TokenProjection(width, context, operations, device, dtype) for number, width in cross.items()}
    )


def hidden_widths(file: Checkpoint, prefix: str, to_k: str) -> tuple[int, ...]:
    """The width of each attention layer, from the keys prefix + "<number>." + to_k + ".weight".

    The self-attention of a block, which has no weights in the file, is as wide as its cross-attention.
    Raises CheckpointError if the layers are not those of an SDXL-shaped UNet.
    """
    numbers = layer_numbers(file, prefix)
    widths = [file.shape(f"{prefix}{number}.{to_k}.weight", 2)[0] for number in numbers]
    if numbers != list(range(1, 2 * len(numbers), 2)) or sdxl_layers_of_widths(widths) is None:
        raise CheckpointError(
            f"{file.name} ({file.family.label}) has weights for {len(numbers)} cross-attention layers that are not "
            f"those of SDXL, which has {len(SDXL_LAYERS) // 2} ({prefix}1 to .{SDXL_LAYERS[-1].number}, "
            "odd numbers only): it is incomplete or made for another base model."
        )
    return tuple(width for width in widths for _ in range(2))


def layer_numbers(file: Checkpoint, prefix: str) -> list[int]:
    """The numbers N of the keys prefix + "N.", in order."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return sorted({int(match[1]) for key in file.tensors if (match := pattern.match(key))})
