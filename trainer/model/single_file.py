"""One SD 1.5 checkpoint file in the original layout, and its networks as diffusers and transformers have them.

Configurations are written here, so nothing is asked of a model hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...adapters.checkpoint import Checkpoint, CheckpointError, check_tensors, read_tensors
from .clip_models import fill, named_as_in, without_weights
from .original_layout import PREFIX, unet_from_original

UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # in diffusers' naming the number of heads
    "sample_size": 64,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."


def read(path: Path) -> Checkpoint:
    """Read an SD 1.5 checkpoint. Raises ValueError (CheckpointError) for anything else, naming what it is."""
    file = read_tensors(path)
    if file.family.name != "sd15":
        raise CheckpointError(f"{file.name} is {file.family.label}; the base model must be an SD 1.5 checkpoint.")
    if not any(key.startswith(PREFIX) for key in file.tensors):
        raise CheckpointError(
            f"{file.name} holds a U-Net alone or another layout; a single file needs {PREFIX}*, {VAE_PREFIX}* and "
            f"{TEXT_PREFIX}* tensors. A diffusers model is given as its folder."
        )
    return file


def unet_of(file: Checkpoint, config: Mapping[str, Any] | None = None) -> Any:
    """The U-Net as diffusers has it, in the stored dtype; config are diffusers' own arguments, SD 1.5's by default."""
    from diffusers import UNet2DConditionModel

    try:
        tensors = unet_from_original(file.tensors)
    except ValueError as error:
        raise CheckpointError(f"{file.name}: {error}") from error
    config = UNET if config is None else config
    channels = tensors["conv_in.weight"].shape[1]
    if channels != config.get("in_channels", 4):
        raise CheckpointError(f"{file.name} has {channels} input channels: an inpainting or edit model cannot be used.")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return _filled(unet, file, tensors)


def vae_of(file: Checkpoint, config: Mapping[str, Any] | None = None) -> Any:
    """The VAE as diffusers has it, in the stored dtype; config as for `unet_of`."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    stored = {key: value for key, value in file.tensors.items() if key.startswith(VAE_PREFIX)}
    if not stored:
        raise CheckpointError(f"{file.name} holds no VAE ({VAE_PREFIX}*): choose a full checkpoint.")
    with torch.device("meta"):
        vae: Any = AutoencoderKL(**(VAE if config is None else config))
    return _filled(vae, file, convert_ldm_vae_checkpoint(stored, vae.config))


def text_of(file: Checkpoint, config: Mapping[str, Any] | None = None) -> Any:
    """The text encoder as transformers has it, in the stored dtype; config are transformers' arguments."""
    from transformers import CLIPTextConfig, CLIPTextModel

    stored = {key.removeprefix(TEXT_PREFIX): v for key, v in file.tensors.items() if key.startswith(TEXT_PREFIX)}
    if not stored:
        raise CheckpointError(f"{file.name} holds no text encoder ({TEXT_PREFIX}*): choose a full checkpoint.")
    model = without_weights(CLIPTextModel, CLIPTextConfig(**(TEXT if config is None else config)))
    stored = {key: tensor for key, tensor in stored.items() if "position_ids" not in key}
    return _filled(model, file, named_as_in(model, stored, "text_model."))


def _filled(module: nn.Module, file: Checkpoint, tensors: Mapping[str, Tensor]) -> nn.Module:
    part = Checkpoint(file.path, dict(tensors))
    check_tensors(part, {key: tuple(value.shape) for key, value in module.state_dict().items()}, " SD 1.5")
    fill(module, part.tensors)
    return module
