"""The frozen base model: SD 1.5's architecture of any width, from a diffusers folder or one checkpoint file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...adapters.inversion import scaled_linear_alphas
from ...adapters.layers import SD15_LAYERS
from . import single_file
from .latents import LatentEncoder, LatentFormat, load_latent_encoder, vae_config, vae_folder
from .original_layout import check_convolutions
from .text import TextEncoder, clip_tokenizer, folder_tokenizer

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class BaseModel:
    """A base model, frozen, on its device.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        text: texts -> (B, 77, D).
        latents: how latents are scaled.
        vae: None where only cached latents are used.
        alphas_cumprod: ᾱ, (T,) float64 on the CPU.
        prediction_type: "epsilon" or "v_prediction".
    """

    name: str
    unet: Any
    text: TextEncoder
    latents: LatentFormat
    vae: LatentEncoder | None
    alphas_cumprod: Tensor
    prediction_type: str

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """What the U-Net computes in."""
        return self.unet.dtype


def load_base_model(path: str | Path, device: torch.device | str, dtype: torch.dtype, *, vae: bool = True) -> BaseModel:
    """Load a diffusers folder (unet, vae, text_encoder, scheduler; tokenizer if there) or an SD 1.5 checkpoint file.

    The text encoder is kept in float32 unless dtype is a half type. Raises ValueError naming what is wrong: a part is
    missing, the model is SDXL, FLUX, SD 2 or another, its sizes are not SD 1.5's (files) or it predicts neither noise
    nor velocity.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"the base model {path} does not exist.")
    base = _from_folder(path, vae) if path.is_dir() else _from_file(path, vae)
    _check_architecture(base)
    nn.Module.to(base.unet, device, dtype)  # diffusers' own warns of lists of modules to keep, even empty ones
    base.unet.eval().requires_grad_(False)
    base.text.model.to(device, dtype)
    if base.vae is not None:
        base.vae.to(device, dtype)
    return base


def _from_file(path: Path, vae: bool) -> BaseModel:
    file = single_file.read(path)
    return BaseModel(
        name=path.name,
        unet=single_file.unet_of(file),
        text=TextEncoder(single_file.text_of(file), clip_tokenizer(single_file.TEXT["max_position_embeddings"])),
        latents=LatentFormat.from_config(single_file.VAE),
        vae=LatentEncoder(single_file.vae_of(file)) if vae else None,
        alphas_cumprod=scaled_linear_alphas(),
        prediction_type="epsilon",
    )


def _from_folder(path: Path, vae: bool) -> BaseModel:
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    _check_parts(path)
    text = CLIPTextModel.from_pretrained(path / "text_encoder", local_files_only=True)
    length = text.config.max_position_embeddings
    has_tokenizer = (path / "tokenizer").is_dir()
    scheduler = DDPMScheduler.from_config(_config(path / "scheduler" / "scheduler_config.json"))
    folder = vae_folder(path)
    return BaseModel(
        name=path.name,
        unet=UNet2DConditionModel.from_pretrained(path / "unet", local_files_only=True),
        text=TextEncoder(
            text, folder_tokenizer(path / "tokenizer", length) if has_tokenizer else clip_tokenizer(length)
        ),
        latents=LatentFormat.from_config(vae_config(folder)),
        vae=load_latent_encoder(folder, "cpu", torch.float32) if vae else None,
        alphas_cumprod=scheduler.alphas_cumprod.double(),
        prediction_type=scheduler.config.prediction_type,
    )


def _check_parts(path: Path) -> None:
    missing = [name for name in ("unet", "text_encoder", "scheduler") if not (path / name).is_dir()]
    if missing:
        kind = "no diffusers model"
        if (path / "model_index.json").is_file():
            kind = f"a {_config(path / 'model_index.json').get('_class_name')}"
        raise ValueError(f"the base model {path} is {kind}: it has no {missing[0]} folder. Choose an SD 1.5 model.")
    unet = _config(path / "unet" / "config.json")
    if unet.get("addition_embed_type") == "text_time":
        raise ValueError(f"the base model {path} is an SDXL model; UniPortrait needs SD 1.5.")
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise ValueError(f"the base model {path} has a {unet['_class_name']}; UniPortrait needs SD 1.5.")


def _check_architecture(base: BaseModel) -> None:
    expected = {f"{layer.diffusers}.processor" for layer in SD15_LAYERS}
    found = set(base.unet.attn_processors)
    if found != expected:
        raise ValueError(
            f"the base model {base.name} has {len(found)} attention layers in other places than SD 1.5's "
            f"{len(expected)}: it is of another family."
        )
    if base.prediction_type not in PREDICTIONS:
        raise ValueError(f"the base model {base.name} predicts {base.prediction_type}; supported: {PREDICTIONS}.")
    try:
        check_convolutions(base.unet.state_dict())
    except ValueError as error:
        raise ValueError(f"the base model {base.name}: {error}") from error
    if base.unet.config.cross_attention_dim != base.text.width:
        raise ValueError(
            f"the base model {base.name}: its U-Net reads {base.unet.config.cross_attention_dim}-wide text and its "
            f"text encoder gives {base.text.width}."
        )
    if base.unet.config.in_channels != base.latents.channels:
        raise ValueError(
            f"the base model {base.name}: its U-Net reads {base.unet.config.in_channels} channels and its VAE gives "
            f"{base.latents.channels}."
        )


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"the base model lacks {path}.")
    return json.loads(path.read_text("utf-8"))
