"""Writes tiny models, random or trained, in the layout of a ComfyUI models folder; `models_pack` makes them loadable.

Real ComfyUI servers run whole graphs on them in a second or two on a CPU. Key names and depths are those of the
released models, only widths are small. The files of UniPortrait carry the released names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from . import colour_path, tiny_layouts, tiny_uniportrait, tiny_weights, trained
from .model_folder import code_digest, half, pickled, write_models
from .tiny_layouts import under
from .tiny_sizes import TinySizes
from .tiny_weights import random_weights

MANIFEST = "likeness-tiny-models.json"
RANDOM, TRAINED = "random", "trained"


@dataclass(frozen=True)
class TinyModels:
    """The written models: the folder, and each file's name as ComfyUI's loaders list it (its folder is in `paths`)."""

    folder: Path
    checkpoint: str = "likeness-tiny-sd15.safetensors"
    controlnet: str = "likeness-tiny-control.safetensors"
    clip_vision: str = "likeness-tiny-clip-vision.safetensors"
    faceid: str = "uniportrait-faceid_sd15.bin"
    faceid_safetensors: str = "uniportrait-faceid_sd15.safetensors"
    router: str = "uniportrait-router_sd15.bin"
    router_safetensors: str = "uniportrait-router_sd15.safetensors"
    backbone: str = "glint360k_curricular_face_r101_backbone.bin"
    image_prompt: str = "ip-adapter_sd15.safetensors"

    @property
    def paths(self) -> dict[str, Path]:
        """File name -> full path."""
        folders = {self.checkpoint: "checkpoints", self.controlnet: "controlnet", self.clip_vision: "clip_vision"}
        uniportrait = (self.faceid, self.faceid_safetensors, self.router, self.router_safetensors)
        folders |= dict.fromkeys((*uniportrait, self.backbone, self.image_prompt), "uniportrait")
        return {name: self.folder / sub / name for name, sub in folders.items()}


def write_tiny_models(
    folder: Path | str, seed: int = 0, sizes: TinySizes | None = None, weights: str = RANDOM
) -> TinyModels:
    """Write the tiny models below `folder` (a ComfyUI models folder) and return their names.

    weights: "random" ones prove that parts work together. With "trained" the base model, the encoders and UniPortrait
    are those that ship with the pack, trained in the synthetic world (`trained`); ControlNet and IP-Adapter are random.

    Equal arguments give equal bytes. Files that are there and whole are left alone; each file appears at once or
    not at all. Two processes may write the same models at the same time.

    Raises ValueError when the folder holds a file of one of these names that is not on this function's own list there:
    the names of UniPortrait's files are the released ones, and a real model must not be overwritten.
    """
    sizes = sizes or TinySizes()
    models = TinyModels(Path(folder))
    modules = (colour_path, tiny_layouts, tiny_uniportrait, tiny_weights, trained)
    shipped = sorted(trained.FOLDER.glob("*.safetensors")) if weights == TRAINED else []
    code = code_digest(modules, shipped)
    recipe = {"seed": seed, "sizes": repr(sizes), "weights": weights, "code": code}
    write_models(models.folder / MANIFEST, models.paths, recipe, lambda: tiny_files(models, sizes, seed, weights))
    return models


def tiny_files(models: TinyModels, sizes: TinySizes, seed: int, weights: str = RANDOM) -> dict[str, bytes]:
    """Return the content of every file: file name -> bytes."""
    if weights == TRAINED:
        checkpoint, vision, backbone = trained.checkpoint(sizes), trained.part("vision"), trained.part("backbone")
        backbone = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in backbone.items()}
        faceid, router = _parts(trained.part("faceid")), _parts(trained.part("router"))
    else:
        checkpoint, vision, backbone = _checkpoint(sizes, seed), _vision(sizes, seed), _backbone(sizes, seed)
        faceid, router = _faceid(sizes, seed), {"faceid_adapter": half(_router_adapter(sizes, seed))}
    heads = {"likeness.heads": str(sizes.resampler_heads)}
    return {
        models.checkpoint: safetensors.torch.save(half(checkpoint)),
        models.controlnet: safetensors.torch.save(half(_controlnet(sizes, seed))),
        models.clip_vision: safetensors.torch.save(half(vision)),
        models.faceid: pickled(faceid),
        models.faceid_safetensors: safetensors.torch.save(_flat(faceid), metadata=heads),
        models.router: pickled(router),
        models.router_safetensors: safetensors.torch.save(_flat(router)),
        models.backbone: pickled(backbone),  # released in float32, as a flat dict
        models.image_prompt: safetensors.torch.save(_flat(_image_prompt(sizes, seed))),
    }


def _checkpoint(sizes: TinySizes, seed: int) -> dict[str, Tensor]:
    unet = random_weights("unet", tiny_layouts.unet_shapes(sizes), tiny_weights.UNET_RULES, seed)
    tiny_weights.prefer_coarse(unet, sizes)
    tiny_weights.pass_noise_through(unet, sizes)
    taesd = random_weights("taesd", tiny_layouts.taesd_shapes(sizes), tiny_weights.TAESD_RULES, seed)
    tiny_weights.show_colours_and_texture(taesd, trained.LATENT_SCALE)
    text = random_weights("text", tiny_layouts.text_shapes(sizes), tiny_weights.CLIP_RULES, seed)
    tensors = under("model.diffusion_model.", unet) | under("first_stage_model.", taesd)
    return tensors | under("cond_stage_model.transformer.", text)


def _vision(sizes: TinySizes, seed: int) -> dict[str, Tensor]:
    return random_weights("vision", tiny_layouts.vision_shapes(sizes), tiny_weights.CLIP_RULES, seed)


def _backbone(sizes: TinySizes, seed: int) -> dict[str, Tensor]:
    shapes = tiny_uniportrait.backbone_shapes(sizes)
    backbone = random_weights("backbone", shapes, tiny_weights.BACKBONE_RULES, seed)
    tiny_weights.take_out_means(backbone, r"(shortcut_layer\.0|res_layer\.4)\.weight")
    return backbone


def _controlnet(sizes: TinySizes, seed: int) -> dict[str, Tensor]:
    shapes = tiny_layouts.controlnet_shapes(sizes)
    return under("control_model.", random_weights("control", shapes, tiny_weights.CONTROL_RULES, seed))


def _faceid(sizes: TinySizes, seed: int) -> dict[str, dict[str, Tensor]]:
    rules = tiny_weights.UNIPORTRAIT_RULES
    adapter = tiny_uniportrait.lora_shapes(sizes) | tiny_uniportrait.projection_shapes(sizes, "faceid")
    resampler = random_weights("resampler", tiny_uniportrait.resampler_shapes(sizes), rules, seed)
    tiny_weights.take_out_means(resampler, r"proj_(id|clip)\.2\.weight")
    return {
        "faceid_proj": half(resampler),
        "faceid_adapter": half(random_weights("faceid", adapter, rules, seed)),
    }


def _router_adapter(sizes: TinySizes, seed: int) -> dict[str, Tensor]:
    shapes = tiny_uniportrait.lora_shapes(sizes) | tiny_uniportrait.routing_shapes(sizes)
    adapter = random_weights("router", shapes, tiny_weights.UNIPORTRAIT_RULES, seed)
    tiny_weights.take_out_means(adapter, r"_router\.2\.weight")
    return adapter


def _image_prompt(sizes: TinySizes, seed: int) -> dict[str, dict[str, Tensor]]:
    rules = tiny_weights.UNIPORTRAIT_RULES
    return {
        "image_proj": half(random_weights("image", tiny_uniportrait.image_projection_shapes(sizes), rules, seed)),
        "ip_adapter": half(random_weights("ip", tiny_uniportrait.projection_shapes(sizes, "ip"), rules, seed)),
    }


def _flat(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{key}": tensor for part, tensors in parts.items() for key, tensor in tensors.items()}


def _parts(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The opposite of `_flat`: as pickled files hold it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        part, rest = key.split(".", 1)
        parts.setdefault(part, {})[rest] = tensor
    return parts
