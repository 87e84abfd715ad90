"""Writes tiny files of UniID with random weights, in the released layout, for the tiny SDXL of `tiny_pulid`.

A sister of `tiny_models`, with the same promises. Every layer is there; folders and names are the published ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.image_resampler import ImageResamplerSizes
from ..adapters.perceiver import StackSizes
from ..adapters.text_branch import TextBranchSizes
from ..adapters.uniid import UniID, UniIDSizes, released_form
from ..faces.iresnet import IResNet
from . import tiny_layouts, tiny_pulid_sizes, tiny_sizes, tiny_weights
from .model_folder import code_digest, pickled, write_models
from .tiny_layouts import Shapes
from .tiny_pulid_sizes import PulidSizes
from .tiny_weights import random_weights

MANIFEST = "likeness-tiny-uniid-models.json"
_PREFIXES = ("text_branch.", "adapter_branch.")


@dataclass(frozen=True)
class TinyUniidModels:
    """The written files: the folder, and each file's name as ComfyUI's loaders list it (its folder is in `paths`)."""

    folder: Path
    text_branch: str = "text_branch_checkpoints/checkpoint-12/pytorch_model.bin"
    adapter_branch: str = "adapter_branch_checkpoints/checkpoint-16/pytorch_model.bin"
    backbone: str = "backbone.pth"

    @property
    def paths(self) -> dict[str, Path]:
        """File name -> full path, with the config.json beside each branch."""
        branches = (self.text_branch, self.adapter_branch)
        names = (*branches, self.backbone, *map(config_of, branches))
        return {name: self.folder / "uniid" / name for name in names}


@dataclass(frozen=True)
class UniidSizes:
    """Sizes of the tiny UniID. Heads are 64 wide in the released files, so a .bin file allows no other width."""

    base: PulidSizes = PulidSizes()
    widths: tuple[int, int, int, int] = (8, 16, 24, 32)  # of the backbone's stages
    units: tuple[int, int, int, int] = (3, 13, 30, 3)
    embedding: int = 32
    hidden: int = 64  # between the embedding and the words
    words: int = 3
    tokens: int = 25
    resampler: StackSizes = StackSizes(dim=32, depth=6, heads=1)
    text_depth: int = 4

    @property
    def adapter(self) -> UniIDSizes:
        """Sizes of both branches."""
        encoders = (self.base.clip_l.width, self.base.clip_g.width)
        first, second = (StackSizes(width, self.text_depth, heads=1) for width in encoders)
        *shallow, deep = self.widths
        return UniIDSizes(
            TextBranchSizes((first, second), self.words, self.embedding, deep, self.hidden),
            ImageResamplerSizes(self.resampler, self.tokens, sum(shallow), deep, self.base.sdxl.context),
            self.base.sdxl.layer_widths,
        )

    @property
    def config(self) -> dict[str, object]:
        """What the published trainer writes beside its files, as far as inference reads it."""
        return {
            "num_text_branch_tokens": self.words,
            "num_adapter_tokens": self.tokens,
            "adapter_hidden_dim": self.resampler.dim,
            "pretrained_face_recog_model_path": "glint360k_cosface_r100_fp16_0.1/backbone.pth",
        }


def config_of(branch: str) -> str:
    """The name of the config.json beside a branch's file."""
    return f"{branch.rpartition('/')[0]}/config.json"


def write_tiny_uniid_models(folder: Path | str, seed: int = 0, sizes: UniidSizes | None = None) -> TinyUniidModels:
    """Write the tiny files below `folder` (a ComfyUI models folder) and return their names.

    Equal arguments give equal bytes; see `model_folder.write_models` for what happens to files that are there.

    Raises ValueError when the folder holds a file of one of these names that was not written by this function.
    """
    sizes = sizes or UniidSizes()
    models = TinyUniidModels(Path(folder))
    code = code_digest((tiny_layouts, tiny_pulid_sizes, tiny_sizes, tiny_weights))
    recipe = {"seed": seed, "sizes": repr(sizes), "code": code}
    write_models(models.folder / MANIFEST, models.paths, recipe, lambda: tiny_uniid_files(models, sizes, seed))
    return models


def tiny_uniid_files(models: TinyUniidModels, sizes: UniidSizes, seed: int) -> dict[str, bytes]:
    """Return the content of every file: file name -> bytes. All are released in float32."""
    text, adapter = _branches(sizes, seed)
    config = json.dumps(sizes.config, indent=1).encode()
    return {
        models.text_branch: pickled(text),
        models.adapter_branch: pickled(adapter),
        models.backbone: pickled(_backbone(sizes, seed)),
        config_of(models.text_branch): config,
        config_of(models.adapter_branch): config,
    }


def _branches(sizes: UniidSizes, seed: int) -> list[dict[str, Tensor]]:
    """The tensors of the text branch and of the adapter branch under the released keys."""
    adapter = UniID(sizes.adapter, device="meta")
    weights = random_weights("uniid", _shapes(adapter), tiny_weights.UNIID_RULES, seed)
    tiny_weights.take_out_means(weights, r"\.proj_[12]\.proj\.2\.weight")
    adapter.load_state_dict(weights, assign=True)
    tensors, _ = released_form(adapter)
    return [{key: tensor for key, tensor in tensors.items() if key.startswith(prefix)} for prefix in _PREFIXES]


def _backbone(sizes: UniidSizes, seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = IResNet(sizes.widths, sizes.units, sizes.embedding)
    weights = random_weights("iresnet", _shapes(network), tiny_weights.BACKBONE_RULES, seed)
    tiny_weights.take_out_means(weights, r"(shortcut_layer\.0|res_layer\.4)\.weight")
    network.load_state_dict(weights, assign=True)
    return network.released_form()


def _shapes(module: torch.nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}
