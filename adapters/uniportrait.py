"""UniPortrait's weights: one container for its two files and the image prompt's, in and out of the released layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint, CheckpointError, fingerprint, load_strictly, read_tensors, save_tensors
from .families import IP_ADAPTER_SD15, UNIPORTRAIT_FACEID, UNIPORTRAIT_ROUTER
from .image_prompt import ImageProjection
from .layers import SD15_LAYERS
from .lora import AttentionLoRA
from .perceiver import HEADS_KEY
from .projection import TokenProjection
from .resampler import IDResampler, ResamplerSizes
from .routing import IDRouter

_SLOTS = {
    "faceid": (UNIPORTRAIT_FACEID, "faceid_proj.*"),
    "router": (UNIPORTRAIT_ROUTER, "faceid_adapter.*.to_q_router.*"),
    "image_prompt": (IP_ADAPTER_SD15, "image_proj.proj.* and ip_adapter.*"),
}


@dataclass(frozen=True)
class UniPortraitSizes:
    """Sizes of a `UniPortrait`. The parts of a file that is not there are None."""

    hidden: tuple[int, ...]  # width C of each of the 32 attention layers
    resampler: ResamplerSizes
    rank: int = 128
    multi_rank: int | None = None  # with the router
    image_embed: int | None = None  # with the image prompt: width of CLIP's image embedding
    image_tokens: int = 4


class UniPortrait(nn.Module):
    """Everything UniPortrait trains: resampler, identity keys and values, LoRA sets, router; and an image prompt.

    What belongs to a layer is in a ModuleDict under the released layer number, "0" to "31"; identity, image-prompt and
    router weights exist for the odd, cross-attention ones. lora_multi and routers are None without a router file,
    image_projection and ip_projections without an image-prompt file. `fingerprint` tells which file the resampler came
    from, and is empty if it came from none; the identities it makes carry it.
    """

    def __init__(
        self,
        sizes: UniPortraitSizes,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.fingerprint = ""
        place = {"operations": operations, "device": device, "dtype": dtype}
        context, num_tokens = sizes.resampler.output_dim, sizes.resampler.num_tokens
        widths = {str(layer.number): sizes.hidden[layer.number] for layer in SD15_LAYERS}
        cross = {str(layer.number): sizes.hidden[layer.number] for layer in SD15_LAYERS if layer.is_cross}

        def lora_set(rank: int) -> nn.ModuleDict:
            return nn.ModuleDict(
                {n: AttentionLoRA(C, context if n in cross else C, rank, **place) for n, C in widths.items()}
            )

        self.resampler = IDResampler(sizes.resampler, **place)
        self.projections = nn.ModuleDict({n: TokenProjection(C, context, **place) for n, C in cross.items()})
        self.lora_single = lora_set(sizes.rank)
        self.lora_multi = self.routers = self.image_projection = self.ip_projections = None
        if sizes.multi_rank is not None:
            self.lora_multi = lora_set(sizes.multi_rank)
            self.routers = nn.ModuleDict({n: IDRouter(C, context, num_tokens, **place) for n, C in cross.items()})
        if sizes.image_embed is not None:
            self.image_projection = ImageProjection(sizes.image_embed, sizes.image_tokens, context, **place)
            self.ip_projections = nn.ModuleDict({n: TokenProjection(C, context, **place) for n, C in cross.items()})


def load_uniportrait(
    faceid: str | Path,
    router: str | Path | None = None,
    image_prompt: str | Path | None = None,
    operations: Operations = nn,
) -> UniPortrait:
    """Load the released files, or editions of them in the same layout; all sizes are read off the tensors.

    The files are uniportrait-faceid_sd15, uniportrait-router_sd15 (for several people) and ip-adapter_sd15. Weights
    keep the dtype in which they are stored. Raises CheckpointError if a file is damaged, of another system or in the
    wrong place, incomplete, or made for other sizes than faceid.
    """
    paths = {"faceid": faceid, "router": router, "image_prompt": image_prompt}
    files = {slot: _open(path, slot) for slot, path in paths.items() if path is not None}
    sizes = _sizes(files["faceid"], files.get("router"), files.get("image_prompt"))
    twin = UniPortrait(sizes, device="meta").state_dict()
    expected = {key: tuple(value.shape) for key, value in twin.items()}
    adapter = UniPortrait(sizes, operations, device="meta")
    names = {slot: _released_keys(expected, slot) for slot in files}
    load_strictly(adapter, expected, [(file, names[slot]) for slot, file in files.items()])
    resampler = {k: v for k, v in files["faceid"].tensors.items() if k.startswith("faceid_proj.")}
    adapter.fingerprint = fingerprint(resampler)
    return adapter


def save_faceid(
    path: str | Path, adapter: UniPortrait, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write resampler, identity projections and the single LoRA set as a faceid file; dtype None keeps the weights'."""
    _save(path, adapter, "faceid", dtype, {HEADS_KEY: str(adapter.sizes.resampler.heads), **(metadata or {})})


def save_router(
    path: str | Path, adapter: UniPortrait, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write router and multi LoRA set as a router file. Raises ValueError if the adapter has none."""
    if adapter.routers is None:
        raise ValueError("this adapter has no router to save: it was made from a faceid file alone.")
    _save(path, adapter, "router", dtype, metadata or {})


def _save(
    path: str | Path, adapter: UniPortrait, slot: str, dtype: torch.dtype | None, metadata: Mapping[str, str]
) -> None:
    state: dict[str, Tensor] = adapter.state_dict()
    tensors = {name: state[key] for key, name in _released_keys(state, slot).items()}
    save_tensors(path, {name: value.to(dtype or value.dtype) for name, value in tensors.items()}, metadata)


def _open(path: str | Path, slot: str) -> Checkpoint:
    file = read_tensors(path)
    wanted, keys = _SLOTS[slot]
    if file.family != wanted:
        found = file.family
        raise CheckpointError(
            f"{file.name} is {found.label}, {found.use}; the {slot} slot needs a file with {keys} keys."
        )
    return file


def _sizes(faceid: Checkpoint, router: Checkpoint | None, image_prompt: Checkpoint | None) -> UniPortraitSizes:
    numbers = {int(match[1]) for key in faceid.tensors if (match := re.match(r"faceid_adapter\.(\d+)\.", key))}
    if numbers != {layer.number for layer in SD15_LAYERS}:
        raise CheckpointError(
            f"{faceid.name} has weights for {len(numbers)} attention layers, while SD 1.5 has {len(SD15_LAYERS)} "
            f"(faceid_adapter.0 to .{len(SD15_LAYERS) - 1}): it is incomplete or made for another base model."
        )
    resampler = ResamplerSizes.from_checkpoint(faceid, "faceid_proj.")
    multi_rank = image_embed = None
    image_tokens = 4
    if router is not None:
        multi_rank = router.shape("faceid_adapter.0.to_q_lora.down.weight", 2)[0]
    if image_prompt is not None:
        rows, image_embed = image_prompt.shape("image_proj.proj.weight", 2)
        image_tokens = rows // image_prompt.shape("image_proj.norm.weight", 1)[0]
    return UniPortraitSizes(
        hidden=tuple(faceid.shape(f"faceid_adapter.{n}.to_q_lora.up.weight", 2)[0] for n in sorted(numbers)),
        resampler=resampler,
        rank=faceid.shape("faceid_adapter.0.to_q_lora.down.weight", 2)[0],
        multi_rank=multi_rank,
        image_embed=image_embed,
        image_tokens=image_tokens,
    )


def _released_keys(keys: Mapping[str, Any], slot: str) -> dict[str, str]:
    """Module key -> key in the file of that slot, for the keys which that file holds."""
    placed = {key: _released_key(key) for key in keys}
    return {key: name for key, (place, name) in placed.items() if place == slot}


def _released_key(key: str) -> tuple[str, str]:
    """(slot, key in its file) of one of the container's keys. The router file's LoRA is the multi set."""
    part, rest = key.split(".", 1)
    if part == "resampler":
        return "faceid", f"faceid_proj.{rest}"
    if part == "image_projection":
        return "image_prompt", f"image_proj.{rest}"
    number, name, leaf = rest.split(".", 2)
    slot, layer = {
        "projections": ("faceid", f"faceid_adapter.{number}.{name}_faceid"),
        "lora_single": ("faceid", f"faceid_adapter.{number}.{name}_lora"),
        "lora_multi": ("router", f"faceid_adapter.{number}.{name}_lora"),
        "routers": ("router", f"faceid_adapter.{number}.{name}"),
        "ip_projections": ("image_prompt", f"ip_adapter.{number}.{name}_ip"),
    }[part]
    return slot, f"{layer}.{leaf}"
