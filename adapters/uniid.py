"""UniID's weights: one container for its two branches, in and out of the released layout (docs/uniid.md, 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint, CheckpointError, fingerprint, load_strictly, read_tensors, save_tensors
from .families import UNIID, UNIID_ADAPTER, UNIID_TEXT
from .image_resampler import ImageResampler, ImageResamplerSizes
from .layers import AttentionLayer
from .perceiver import HEADS_KEY
from .text_branch import ENCODERS, TextBranch, TextBranchSizes, heads_key
from .training_config import check_config
from .unet_projections import hidden_widths, unet_layers, unet_projections

RELEASED_FILES = (
    "text_branch_checkpoints/checkpoint-12/pytorch_model.bin and adapter_branch_checkpoints/checkpoint-16/"
    "pytorch_model.bin"
)
NORMS_KEY = "name_norms"  # our addition to the released layout

TEXT, ADAPTER = "text", "adapter"
_BRANCHES = {UNIID_TEXT: (TEXT,), UNIID_ADAPTER: (ADAPTER,), UNIID: (TEXT, ADAPTER)}
_PREFIXES = {TEXT: "text_branch.", ADAPTER: "adapter_branch."}  # as released; the first public code had none
# A key of each branch that shows what stands before its keys in a file.
_TELLING = {
    TEXT: "text_resampler_1.proj_in.weight",
    ADAPTER: "adapter_resampler.proj_face_recog_model_layers.0.weight",
}


@dataclass(frozen=True)
class UniIDSizes:
    """Sizes of a `UniID`; those of a branch that is not there are None, and hidden is then empty."""

    text: TextBranchSizes | None = None
    adapter: ImageResamplerSizes | None = None
    hidden: tuple[int, ...] = ()  # width C of each attention layer of the UNet, with the adapter branch

    @property
    def layers(self) -> tuple[AttentionLayer, ...]:
        """The UNet's attention layers by number; none without the adapter branch."""
        return unet_layers(self.hidden)

    @property
    def context(self) -> int:
        """Width D of the UNet's context, and of every token."""
        if self.adapter is not None:
            return self.adapter.output_dim
        assert self.text is not None, "a UniID without any branch"
        return sum(self.text.widths)


class UniID(nn.Module):
    """Everything UniID trains: the text branch, and the adapter branch as image resampler and keys and values.

    `text_branch` is None without that branch, `resampler` and `projections` without the other. `projections` is a
    ModuleDict under the released layer number, "1" to "139". `fingerprints` tells by "text" and "adapter" which branch
    an identity's tokens came from: the same for every edition of one file, "" where the branch is not there or came
    from no file. `name_norms` (n, 2) are the lengths that a person's words should get, where the file holds them.
    """

    def __init__(
        self,
        sizes: UniIDSizes,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.fingerprints = {TEXT: "", ADAPTER: ""}
        self.name_norms: Tensor | None = None
        place = {"operations": operations, "device": device, "dtype": dtype}
        self.text_branch = self.resampler = self.projections = None
        if sizes.text is not None:
            self.text_branch = TextBranch(sizes.text, **place)
        if sizes.adapter is not None:
            self.resampler = ImageResampler(sizes.adapter, **place)
            self.projections = unet_projections(sizes.hidden, sizes.context, **place)

    @property
    def fingerprint(self) -> str:
        """Both fingerprints, joined by "+": what identities carry."""
        return f"{self.fingerprints[TEXT]}+{self.fingerprints[ADAPTER]}"


def load_uniid(paths: Sequence[str | Path], operations: Operations = nn) -> UniID:
    """Load the released files of one or both branches, in any order, one file with both, or files of other sizes.

    Branches are recognised by their keys, with or without the released prefixes, and all sizes are read off the
    tensors. A config.json beside a file must agree with them. Weights keep the dtype in which they are stored. Raises
    CheckpointError if a file is damaged, of another system, incomplete, holds what is unknown, or does not fit to the
    other one, and ValueError without any file.
    """
    if not paths:
        raise ValueError("UniID needs a text branch file, an adapter branch file, or both.")
    files = [_open(path) for path in paths]
    sizes = _sizes(_by_branch(files))
    for opened in files:
        check_config(opened.file, _config_fields(sizes, opened.prefixes))
    expected = {key: tuple(value.shape) for key, value in UniID(sizes, device="meta").state_dict().items()}
    adapter = UniID(sizes, operations, device="meta")
    load_strictly(adapter, expected, [(opened.file, _names_in(opened, expected)) for opened in files])
    for branch, part in ((TEXT, adapter.text_branch), (ADAPTER, adapter.resampler)):
        adapter.fingerprints[branch] = "" if part is None else fingerprint(part.state_dict())
    adapter.name_norms = _name_norms(files, sizes)
    return adapter


def save_uniid(
    path: str | Path, adapter: UniID, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the branches that are there under the released keys as .safetensors; dtype None keeps the weights'."""
    tensors, stated = released_form(adapter)
    tensors = {key: value.to(dtype or value.dtype) for key, value in tensors.items()}
    if adapter.name_norms is not None:
        tensors[NORMS_KEY] = adapter.name_norms.float()
    save_tensors(path, tensors, {**stated, **(metadata or {})})


def released_form(adapter: UniID) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights under the released keys, and the metadata that tell what tensors do not: numbers of heads."""
    stated = {}
    if adapter.sizes.text is not None:
        for encoder, stack in zip(ENCODERS, adapter.sizes.text.stacks, strict=True):
            stated[heads_key(encoder)] = str(stack.heads)
    if adapter.sizes.adapter is not None:
        stated[HEADS_KEY] = str(adapter.sizes.adapter.stack.heads)
    state = adapter.state_dict()
    return {_PREFIXES[branch] + name: state[key] for key, (branch, name) in _released_names(state).items()}, stated


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file of UniID: its tensors without the name norms, these, and what stands before the keys of its branches."""

    file: Checkpoint
    norms: Tensor | None
    prefixes: Mapping[str, str]


def _open(path: str | Path) -> _Opened:
    file = read_tensors(path)
    if file.family not in _BRANCHES:
        raise CheckpointError(
            f"{file.name} is {file.family.label}, {file.family.use}; Load UniID needs files of UniID: {RELEASED_FILES}."
        )
    tensors = dict(file.tensors)
    norms = tensors.pop(NORMS_KEY, None)
    prefixes = {
        branch: next(key.removesuffix(_TELLING[branch]) for key in tensors if key.endswith(_TELLING[branch]))
        for branch in _BRANCHES[file.family]
    }
    return _Opened(replace(file, tensors=tensors), norms, prefixes)


def _by_branch(files: Sequence[_Opened]) -> dict[str, _Opened]:
    found: dict[str, _Opened] = {}
    for opened in files:
        for branch in opened.prefixes:
            if branch in found:
                raise CheckpointError(
                    f"{found[branch].file.name} and {opened.file.name} both hold UniID's {branch} branch. Choose one "
                    "file for each branch."
                )
            found[branch] = opened
    return found


def _sizes(by_branch: Mapping[str, _Opened]) -> UniIDSizes:
    text = adapter = None
    hidden: tuple[int, ...] = ()
    if TEXT in by_branch:
        opened = by_branch[TEXT]
        text = TextBranchSizes.from_checkpoint(opened.file, opened.prefixes[TEXT])
    if ADAPTER in by_branch:
        opened = by_branch[ADAPTER]
        prefix = opened.prefixes[ADAPTER]
        adapter = ImageResamplerSizes.from_checkpoint(opened.file, prefix + "adapter_resampler.", prefix + "latents")
        hidden = hidden_widths(opened.file, prefix + "adapter_modules.", "to_k_ip")
    if text is not None and adapter is not None and sum(text.widths) != adapter.output_dim:
        raise CheckpointError(
            f"{by_branch[TEXT].file.name} makes tokens of width {sum(text.widths)}, and {by_branch[ADAPTER].file.name} "
            f"of width {adapter.output_dim}: the branches were trained for different base models."
        )
    return UniIDSizes(text, adapter, hidden)


def _config_fields(sizes: UniIDSizes, branches: Iterable[str]) -> dict[str, int]:
    """What a config.json calls the sizes of these branches."""
    fields = {}
    if TEXT in branches and sizes.text is not None:
        fields["num_text_branch_tokens"] = sizes.text.num_tokens
    if ADAPTER in branches and sizes.adapter is not None:
        fields["num_adapter_tokens"] = sizes.adapter.num_tokens
        fields["adapter_hidden_dim"] = sizes.adapter.stack.dim
    return fields


def _names_in(opened: _Opened, keys: Iterable[str]) -> dict[str, str]:
    """Container key -> key in this file, for the branches that it holds."""
    names = _released_names(keys)
    return {key: opened.prefixes[b] + name for key, (b, name) in names.items() if b in opened.prefixes}


def _released_names(keys: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Container key -> its branch and released name, without the branch's prefix."""
    names = {}
    for key in keys:
        part, rest = key.split(".", 1)
        if part == "text_branch":
            names[key] = TEXT, rest
        elif part == "projections":
            number, projection, leaf = rest.split(".")
            names[key] = ADAPTER, f"adapter_modules.{number}.{projection}_ip.{leaf}"
        else:
            names[key] = ADAPTER, rest if rest == "latents" else f"adapter_resampler.{rest}"
    return names


def _name_norms(files: Sequence[_Opened], sizes: UniIDSizes) -> Tensor | None:
    for opened in files:
        if opened.norms is None:
            continue
        wanted = (0 if sizes.text is None else sizes.text.num_tokens, 2)
        if tuple(opened.norms.shape) != wanted:
            raise CheckpointError(
                f"{opened.file.name}: {NORMS_KEY} is {tuple(opened.norms.shape)}, but the text branch needs {wanted}."
            )
        return opened.norms.float()
    return None
