"""EVA02-CLIP files: their names for tensors, and the sizes that these show (docs/pulid.md, 6.1)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

EXPECTED = (
    "Expected is EVA02_CLIP_L_336_psz14_s6B.pt (856 MB, licence MIT) from QuanSun/EVA-CLIP on the Hugging Face hub, in "
    "models/clip_vision, or its edition for timm or open_clip"
)
NUM_HIDDEN = 5

_TRUNK = "blocks.0.attn.q_proj.weight"  # in every edition; other EVA towers have one joint tensor here
_ROTARY_CONSTANT = "rope.freqs_cos"  # (n, head width)
# Released name -> timm's, at the end of "blocks.<number>."; other names are the same.
_RENAMED = {
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
    "attn.inner_attn_ln.": "attn.norm.",
    "mlp.ffn_ln.": "mlp.norm.",
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "mlp.w3.": "mlp.fc2.",
}


@dataclass(frozen=True)
class EvaSizes:
    """Sides of picture and patch in pixels, widths of tower, MLP and embedding, numbers of blocks and heads."""

    image_size: int
    patch_size: int
    width: int
    mlp_width: int
    embedding: int
    depth: int
    num_heads: int


def tower_tensors(state_dict: Mapping[str, Tensor], name: str, head_width: int) -> tuple[dict[str, Tensor], EvaSizes]:
    """The visual tower's tensors under timm's names, and its sizes; what is beside the tower is left out.

    head_width: channels of an attention head for files without rotary constants, which tell it.
    Raises ValueError naming the file where it holds no such tower, or one of a size that cannot be.
    """
    prefix = _prefix(state_dict, name)
    tower = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
    for key, tensor in tower.items():
        if key.endswith(_ROTARY_CONSTANT):
            head_width = tensor.shape[-1]
    tensors = {_timm_name(key): tensor for key, tensor in tower.items() if "rope." not in key}
    return tensors, _sizes(tensors, name, head_width)


def _prefix(state_dict: Mapping[str, Tensor], name: str) -> str:
    """What stands before the tower's own names: "visual.", "visual.trunk.", nothing, or more."""
    for key in state_dict:
        if key.endswith(_TRUNK) and (key == _TRUNK or key[-len(_TRUNK) - 1] == "."):
            return key.removesuffix(_TRUNK)
    if any(re.search(r"(^|\.)blocks\.0\.attn\.qkv\.weight$", key) for key in state_dict):
        raise ValueError(f"{name} is another vision tower, such as an EVA-CLIP of another size. {EXPECTED}")
    raise ValueError(f"{name} is not an EVA02-CLIP vision tower: the tensor visual.{_TRUNK} is missing. {EXPECTED}")


def _timm_name(key: str) -> str:
    match = re.fullmatch(r"(blocks\.\d+\.)(.+)", key)
    if match is None:
        return key
    for released, renamed in _RENAMED.items():
        if match[2].startswith(released):
            return match[1] + renamed + match[2].removeprefix(released)
    return key


def _sizes(tensors: Mapping[str, Tensor], name: str, head_width: int) -> EvaSizes:
    try:
        patch_size = tensors["patch_embed.proj.weight"].shape[-1]
        num_patches, width = tensors["pos_embed"].shape[1] - 1, tensors["pos_embed"].shape[2]
        mlp_width = tensors["blocks.0.mlp.fc1_g.weight"].shape[0]
        embedding = tensors["head.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{name} is not a complete EVA02-CLIP vision tower: {error} is missing or ill-shaped. {EXPECTED}"
        ) from error
    depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
    side = math.isqrt(max(num_patches, 0))
    if side * side != num_patches or width % head_width or depth % (NUM_HIDDEN + 1):
        raise ValueError(
            f"{name} is an EVA02-CLIP tower that cannot be used: {num_patches} patches (a square number is needed), "
            f"width {width} (a multiple of {head_width}), {depth} blocks (a multiple of {NUM_HIDDEN + 1}). {EXPECTED}"
        )
    return EvaSizes(side * patch_size, patch_size, width, mlp_width, embedding, depth, width // head_width)
