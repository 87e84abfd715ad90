"""PuLID's weights: one container for its editions, in and out of the released layouts (docs/pulid.md, 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint, CheckpointError, fingerprint, load_strictly, read_tensors, save_tensors
from .families import PULID_FLUX, PULID_V1, PULID_V1_1, Family
from .flux_attention import HEADS_KEY as BLOCK_HEADS_KEY
from .flux_attention import FluxAttentionSizes, FluxCrossAttention
from .id_encoder import IDEncoder, IDEncoderSizes
from .id_former import IDFormer, IDFormerSizes
from .layers import AttentionLayer, flux_places
from .perceiver import HEADS_KEY
from .unet_projections import hidden_widths, layer_numbers, unet_layers, unet_projections

EDITIONS: Mapping[str, Family] = {family.name: family for family in (PULID_V1, PULID_V1_1, PULID_FLUX)}
RELEASED_FILES = (
    "pulid_v1.bin, pulid_v1.1.safetensors, pulid_flux_v0.9.1.safetensors or ip-adapter_pulid_sdxl_fp16.safetensors"
)
# What a file calls the parts of the container. Conversions to IP-Adapter's naming are common in ComfyUI.
_RELEASED_NAMES = {
    "encoder": "id_adapter.",
    "projections": "id_adapter_attn_layers.",
    "to_k": "id_to_k",
    "to_v": "id_to_v",
}
_IP_ADAPTER_NAMES = {"encoder": "image_proj.", "projections": "ip_adapter.", "to_k": "to_k_ip", "to_v": "to_v_ip"}
_FLUX_NAMES = {"encoder": "pulid_encoder.", "blocks": "pulid_ca."}


@dataclass(frozen=True)
class PuLIDSizes:
    """Sizes of a `PuLID`: an edition for SDXL has `hidden` and no blocks, the one for FLUX the contrary."""

    edition: str  # a key of EDITIONS
    encoder: IDEncoderSizes | IDFormerSizes
    hidden: tuple[int, ...] = ()  # width C of each attention layer of the UNet
    block: FluxAttentionSizes | None = None
    num_blocks: int = 0

    @property
    def layers(self) -> tuple[AttentionLayer, ...]:
        """The UNet's attention layers by number; none for FLUX."""
        return unet_layers(self.hidden)


class PuLID(nn.Module):
    """Everything PuLID trains: the ID encoder, and keys and values for SDXL or cross-attention blocks for FLUX.

    `projections` is a ModuleDict under the released layer number, "1" to "139", None in the edition for FLUX; `blocks`
    is a ModuleList in running order, None in the others. `edition` is also the `system` of the identities that the
    encoder makes. `fingerprint` tells which encoder that was: the same for every edition of one file, and empty if the
    weights came from none.
    """

    def __init__(
        self,
        sizes: PuLIDSizes,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.fingerprint = ""
        place = {"operations": operations, "device": device, "dtype": dtype}
        self.encoder: IDEncoder | IDFormer
        if isinstance(sizes.encoder, IDEncoderSizes):
            self.encoder = IDEncoder(sizes.encoder, **place)
        else:
            self.encoder = IDFormer(sizes.encoder, **place)
        self.projections = self.blocks = None
        if sizes.block is None:
            self.projections = unet_projections(sizes.hidden, sizes.encoder.output_dim, **place)
        else:
            self.blocks = nn.ModuleList(FluxCrossAttention(sizes.block, **place) for _ in range(sizes.num_blocks))

    @property
    def edition(self) -> str:
        """ "pulid-v1", "pulid-v1.1" or "pulid-flux"."""
        return self.sizes.edition

    @property
    def base(self) -> str:
        """The base model that it works with: "SDXL" or "FLUX"."""
        return EDITIONS[self.edition].base


def load_pulid(path: str | Path, operations: Operations = nn) -> PuLID:
    """Load a released file, a conversion to IP-Adapter's naming, or a file of another size in one of these layouts.

    The edition is recognised by the keys, all sizes are read off the tensors. Weights keep the dtype in which they are
    stored. Raises CheckpointError if the file is damaged, of another system, incomplete, or holds what is unknown.
    """
    file = read_tensors(path)
    if file.family.name not in EDITIONS:
        raise CheckpointError(
            f"{file.name} is {file.family.label}, {file.family.use}; Load PuLID needs a file of PuLID: "
            f"{RELEASED_FILES}."
        )
    names = _names_in(file)
    sizes = _sizes(file, names)
    expected = {key: tuple(value.shape) for key, value in PuLID(sizes, device="meta").state_dict().items()}
    adapter = PuLID(sizes, operations, device="meta")
    load_strictly(adapter, expected, [(file, _file_keys(expected, names))])
    adapter.fingerprint = fingerprint(adapter.encoder.state_dict())
    return adapter


def save_pulid(
    path: str | Path, adapter: PuLID, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the adapter under the released keys as .safetensors; dtype None keeps the weights'."""
    tensors, stated = released_form(adapter)
    tensors = {key: value.to(dtype or value.dtype) for key, value in tensors.items()}
    save_tensors(path, tensors, {**stated, **(metadata or {})})


def released_form(adapter: PuLID) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights under the released keys, and the metadata that tell what tensors do not: numbers of heads."""
    stated = {}
    if isinstance(adapter.sizes.encoder, IDFormerSizes):
        stated[HEADS_KEY] = str(adapter.sizes.encoder.heads)
    if adapter.sizes.block is not None:
        stated[BLOCK_HEADS_KEY] = str(adapter.sizes.block.heads)
    state = adapter.state_dict()
    keys = _file_keys(state, _RELEASED_NAMES if adapter.blocks is None else _FLUX_NAMES)
    return {keys[key]: value for key, value in state.items()}, stated


def _names_in(file: Checkpoint) -> Mapping[str, str]:
    if file.family == PULID_FLUX:
        return _FLUX_NAMES
    converted = any(key.startswith(_IP_ADAPTER_NAMES["encoder"]) for key in file.tensors)
    return _IP_ADAPTER_NAMES if converted else _RELEASED_NAMES


def _sizes(file: Checkpoint, names: Mapping[str, str]) -> PuLIDSizes:
    encoder: IDEncoderSizes | IDFormerSizes
    if file.family == PULID_V1:
        encoder = IDEncoderSizes.from_checkpoint(file, names["encoder"])
    else:
        encoder = IDFormerSizes.from_checkpoint(file, names["encoder"])
    if file.family == PULID_FLUX:
        block = FluxAttentionSizes.from_checkpoint(file, names["blocks"] + "0.", encoder.output_dim)
        return PuLIDSizes(file.family.name, encoder, block=block, num_blocks=_num_blocks(file, names["blocks"], block))
    return PuLIDSizes(file.family.name, encoder, hidden_widths(file, names["projections"], names["to_k"]))


def _num_blocks(file: Checkpoint, prefix: str, block: FluxAttentionSizes) -> int:
    numbers = layer_numbers(file, prefix)
    released = len(flux_places())
    whole = numbers == list(range(len(numbers)))
    if not whole or (block.dim == FluxAttentionSizes().dim and len(numbers) != released):
        raise CheckpointError(
            f"{file.name} ({file.family.label}) has {len(numbers)} cross-attention blocks, while FLUX takes {released} "
            f"({prefix}0 to .{released - 1}): it is incomplete or made for another base model."
        )
    return len(numbers)


def _file_keys(keys: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Container key -> key in a file with these names."""
    renamed = {}
    for key in keys:
        part, rest = key.split(".", 1)
        if part == "projections":
            number, name, leaf = rest.split(".")
            rest = f"{number}.{names[name]}.{leaf}"
        renamed[key] = names[part] + rest
    return renamed
