"""The opposite of `export`: from the files that ship with the pack to a working folder, so that a run begins there."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ..demo import trained
from ..trainer.model.clip_models import named_as_in
from ..trainer.model.original_layout import PREFIX, unet_from_original
from ..trainer.run.building import RELEASED_NAMES
from .base import noise_schedule, unet_config
from .encoders import vision_config
from .export import SHIPPED_ADAPTERS
from .slim_taesd import SlimTAESD, autoencoder_tiny
from .steps import Workshop
from .text import new_text_encoder


def unpack(workshop: Workshop, weights: Path) -> None:
    """Write base model, encoders and adapters of `weights` into the working folder, rounded to float16 as they are.

    What the steps "vae", "base", "encoders" and "adapters" would make is there then, and need not be made.
    """
    sizes = workshop.sizes
    tensors = {key: _float(value) for key, value in trained.part("base", weights).items()}
    unet = UNet2DConditionModel(**unet_config(sizes))
    unet.load_state_dict(unet_from_original({k: v for k, v in tensors.items() if k.startswith(PREFIX)}))
    unet.save_pretrained(workshop.base / "unet")
    slim = SlimTAESD(sizes.latent_channels)
    slim.load_state_dict({key: value for key, value in tensors.items() if key.startswith("taesd_")})
    save_file(slim.state_dict(), workshop.slim_vae)
    autoencoder_tiny(slim, sizes).save_pretrained(workshop.base / "vae")
    text = new_text_encoder(sizes.vocabulary, sizes)
    text.load_state_dict(named_as_in(text, trained.text_encoder(tensors, sizes), "text_model."))
    text.save_pretrained(workshop.base / "text_encoder")
    noise_schedule().save_pretrained(workshop.base / "scheduler")
    vision = CLIPVisionModelWithProjection(vision_config(sizes))
    vision.load_state_dict(trained.part("vision", weights))
    vision.save_pretrained(workshop.vision)
    save_file({key: _float(value) for key, value in trained.part("backbone", weights).items()}, workshop.backbone)
    shutil.copy(weights / trained.CENTRE_FILE, workshop.folder)
    for part, run, stage in SHIPPED_ADAPTERS:
        folder = workshop.folder / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(weights / f"{part}.safetensors", folder / RELEASED_NAMES[stage])


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
