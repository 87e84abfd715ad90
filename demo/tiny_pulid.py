"""Writes tiny models for PuLID with random weights: SDXL, FLUX, a ControlNet, what sees photos, PuLID's own files.

A sister of `tiny_models`, with the same promises. Every block and layer is there: 70 cross-attention layers in SDXL, 20
places in FLUX. What the published system needs carries its published name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..adapters.pulid import PuLID, released_form
from ..faces.bisenet import BiSeNet
from . import (
    colour_path,
    tiny_eva,
    tiny_flux,
    tiny_layouts,
    tiny_pulid_sizes,
    tiny_recogniser,
    tiny_sizes,
    tiny_weights,
)
from .model_folder import code_digest, half, pickled, saved, write_models
from .tiny_layouts import Shapes, under
from .tiny_pulid_sizes import PulidSizes
from .tiny_weights import Rules, random_weights

MANIFEST = "likeness-tiny-pulid-models.json"
SDXL_GAIN = 0.13  # of what the network says beside noise
SDXL_SCALE = 0.13025  # ComfyUI divides SDXL's latents by it before decoding,
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159  # and FLUX's by this, and adds the shift


@dataclass(frozen=True)
class TinyPulidModels:
    """The written models: the folder, and each file's name as ComfyUI's loaders list it (its folder is in `paths`)."""

    folder: Path
    sdxl: str = "likeness-tiny-sdxl.safetensors"
    flux: str = "likeness-tiny-flux.safetensors"
    controlnet: str = "likeness-tiny-sdxl-control.safetensors"
    v1: str = "pulid_v1.bin"
    v1_1: str = "pulid_v1.1.safetensors"
    pulid_flux: str = "pulid_flux_v0.9.1.safetensors"
    eva_clip: str = "EVA02_CLIP_L_336_psz14_s6B.pt"
    parser: str = "parsing_bisenet.pth"
    recogniser: str = "glintr100.onnx"

    @property
    def paths(self) -> dict[str, Path]:
        """File name -> full path."""
        folders = dict.fromkeys((self.sdxl, self.flux), "checkpoints") | {self.controlnet: "controlnet"}
        folders |= dict.fromkeys((self.v1, self.v1_1, self.pulid_flux), "pulid")
        folders |= {self.eva_clip: "clip_vision", self.parser: "facexlib"}
        folders[self.recogniser] = "insightface/models/antelopev2"
        return {name: self.folder / sub / name for name, sub in folders.items()}


def write_tiny_pulid_models(folder: Path | str, seed: int = 0, sizes: PulidSizes | None = None) -> TinyPulidModels:
    """Write the tiny models below `folder` (a ComfyUI models folder) and return their names.

    Equal arguments give equal bytes; see `model_folder.write_models` for what happens to files that are there.

    Raises ValueError when the folder holds a file of one of these names that was not written by this function.
    """
    sizes = sizes or PulidSizes()
    models = TinyPulidModels(Path(folder))
    modules = (colour_path, tiny_eva, tiny_flux, tiny_layouts, tiny_pulid_sizes, tiny_recogniser, tiny_sizes)
    recipe = {"seed": seed, "sizes": repr(sizes), "code": code_digest((*modules, tiny_weights))}
    write_models(models.folder / MANIFEST, models.paths, recipe, lambda: tiny_pulid_files(models, sizes, seed))
    return models


def tiny_pulid_files(models: TinyPulidModels, sizes: PulidSizes, seed: int) -> dict[str, bytes]:
    """Return the content of every file: file name -> bytes."""
    control = random_weights("control-xl", tiny_layouts.controlnet_shapes(sizes.sdxl), tiny_weights.CONTROL_RULES, seed)
    eva = random_weights("eva", tiny_eva.eva_shapes(sizes.eva), tiny_weights.EVA_RULES, seed)
    tiny_weights.take_out_means(eva, r"patch_embed\.proj\.weight")  # most of a composite is white
    return {
        models.sdxl: safetensors.torch.save(half(_sdxl(sizes, seed))),
        models.flux: safetensors.torch.save(half(_flux(sizes, seed))),
        models.controlnet: safetensors.torch.save(half(under("control_model.", control))),
        models.v1: pickled(_adapter(sizes, "pulid-v1", seed)[0]),
        models.v1_1: saved(*_adapter(sizes, "pulid-v1.1", seed)),
        models.pulid_flux: saved(*_adapter(sizes, "pulid-flux", seed)),
        models.eva_clip: pickled(half(under("visual.", eva))),
        models.parser: pickled(_parser(sizes, seed)),  # released in float32, as a flat dict
        models.recogniser: tiny_recogniser.recogniser(),
    }


def _parser(sizes: PulidSizes, seed: int) -> dict[str, Tensor]:
    """A face parser that sees patches of many kinds, other ones in each picture."""
    with torch.device("meta"):
        network = BiSeNet(sizes.parser)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    parser = random_weights("parser", shapes, tiny_weights.PARSER_RULES, seed)
    tiny_weights.take_out_means(parser, r"(conv|conv1|conv2|conv_out)\.weight")
    return parser


def _sdxl(sizes: PulidSizes, seed: int) -> dict[str, Tensor]:
    parts = _random_parts("sdxl", tiny_flux.sdxl_checkpoint_parts(sizes), tiny_weights.SDXL_RULES, seed)
    unet, vae = parts["model.diffusion_model."], parts["first_stage_model."]
    tiny_weights.prefer_coarse(unet, sizes.sdxl)
    tiny_weights.pass_noise_through(unet, sizes.sdxl, SDXL_GAIN)
    tiny_weights.show_colours_and_texture(vae, SDXL_SCALE)
    return _joined(parts)


def _flux(sizes: PulidSizes, seed: int) -> dict[str, Tensor]:
    parts = _random_parts("flux", tiny_flux.flux_checkpoint_parts(sizes.flux), tiny_weights.FLUX_RULES, seed)
    tiny_weights.show_colours_and_texture(parts["vae."], FLUX_SCALE, FLUX_SHIFT)
    return _joined(parts)


def _adapter(sizes: PulidSizes, edition: str, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """PuLID's tensors under the released keys, and their metadata."""
    adapter = PuLID(sizes.adapter(edition), device="meta")
    shapes = {key: tuple(value.shape) for key, value in adapter.state_dict().items()}
    adapter.load_state_dict(random_weights(edition, shapes, tiny_weights.PULID_RULES, seed), assign=True)
    tensors, metadata = released_form(adapter)
    return half(tensors), metadata


# The beginning of a prefix -> how that part of a checkpoint is filled.
_RULES: Mapping[str, Rules] = {
    "first_stage_model.": tiny_weights.TAESD_RULES,
    "vae.": tiny_weights.TAESD_RULES,
    "conditioner.": tiny_weights.CLIP_RULES,
    "text_encoders.": tiny_weights.CLIP_RULES,
}


def _random_parts(name: str, parts: Mapping[str, Shapes], network: Rules, seed: int) -> dict[str, dict[str, Tensor]]:
    """Prefix -> tensors; `network` are the rules of the network itself."""
    filled = {}
    for prefix, shapes in parts.items():
        rules = next((rules for start, rules in _RULES.items() if prefix.startswith(start)), network)
        filled[prefix] = random_weights(name + prefix, shapes, rules, seed)
    return filled


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: tensor for prefix, tensors in parts.items() for key, tensor in under(prefix, tensors).items()}
