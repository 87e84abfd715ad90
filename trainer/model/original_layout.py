"""SD 1.5's U-Net under its original names, as checkpoints and ComfyUI have them, and under diffusers' names.

The table between the two is diffusers' own conversion, run on names. It holds for the architecture, not for its widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from ...adapters.layers import SD15_LAYERS

PREFIX = "model.diffusion_model."

_RES_BLOCK = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TRANSFORMER = (
    "norm",
    "proj_in",
    "proj_out",
    *(f"transformer_blocks.0.norm{number}" for number in (1, 2, 3)),
    *(f"transformer_blocks.0.attn1.{name}" for name in _ATTENTION),
    *(f"transformer_blocks.0.attn2.{name}" for name in _ATTENTION),
    "transformer_blocks.0.ff.net.0.proj",
    "transformer_blocks.0.ff.net.2",
)
_NUM_BLOCKS = 12  # input blocks, and output blocks
_DOWNSAMPLERS = (3, 6, 9)
_UPSAMPLERS = {
    2: 1,
    5: 2,
    8: 2,
}  # output block -> position behind the residual block and, where there is one, attention

Value = TypeVar("Value")


def original_names() -> dict[str, str]:
    """Diffusers' name -> original name, without prefix, of every tensor that an SD 1.5 U-Net may have.

    A residual block has a shortcut only where its width changes, so these names are a few more than one network's.
    """
    names = {f"{PREFIX}{key}.{leaf}": f"{key}.{leaf}" for key in _modules() for leaf in ("weight", "bias")}
    return convert_ldm_unet_checkpoint(names, {"layers_per_block": 2})


def unet_to_original(state: Mapping[str, Value]) -> dict[str, Value]:
    """Rename a diffusers U-Net's tensors to `model.diffusion_model.*`.

    Raises ValueError if a name has no counterpart: the network is not of SD 1.5's architecture.
    """
    names = original_names()
    _check(state, names, "diffusers")
    return {PREFIX + names[key]: value for key, value in state.items()}


def unet_from_original(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the `model.diffusion_model.*` tensors of a checkpoint to diffusers' names; other tensors are left out.

    Raises ValueError as `unet_to_original` does.
    """
    names = {original: key for key, original in original_names().items()}
    unet = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    _check(unet, names, "original")
    return {names[key]: value for key, value in unet.items()}


def check_convolutions(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the transformers' outer projections are linear: SD 1.5 has 1x1 convolutions there."""
    linear = [key for key, value in state.items() if key.endswith("proj_in.weight") and value.ndim == 2]
    if linear:
        raise ValueError(f"{linear[0]} is a linear layer, and SD 1.5 has a convolution: this U-Net is of SD 2's kind.")


def _modules() -> Iterator[str]:
    yield from ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2")
    blocks = [f"input_blocks.{number}.0" for number in range(1, _NUM_BLOCKS) if number not in _DOWNSAMPLERS]
    blocks += [f"output_blocks.{number}.0" for number in range(_NUM_BLOCKS)]
    for block in [*blocks, "middle_block.0", "middle_block.2"]:
        yield from (f"{block}.{name}" for name in _RES_BLOCK)
    for layer in SD15_LAYERS:
        if layer.is_cross:
            transformer = layer.weight_prefix.removeprefix("diffusion_model.").split(".transformer_blocks")[0]
            yield from (f"{transformer}.{name}" for name in _TRANSFORMER)
    yield from (f"input_blocks.{number}.0.op" for number in _DOWNSAMPLERS)
    yield from (f"output_blocks.{number}.{place}.conv" for number, place in _UPSAMPLERS.items())


def _check(state: Mapping[str, object], names: Mapping[str, str], layout: str) -> None:
    unknown = [key for key in state if key not in names]
    missing = [
        key for key in names if key not in state and "shortcut" not in key and "skip" not in key and "bias" not in key
    ]
    if unknown or missing:
        what = f"{unknown[0]} is not known" if unknown else f"{missing[0]} is missing"
        raise ValueError(f"this is no U-Net of SD 1.5's architecture in the {layout} layout: {what}.")
