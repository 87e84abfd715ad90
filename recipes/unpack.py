"""The opposite of `export`: from the files that ship with the pack to a working folder, so that a run begins there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from ..demo import trained
from ..trainer.model.original_layout import PREFIX, unet_from_original
from ..trainer.run.building import RELEASED_NAMES
from .base import noise_schedule, unet_config
from .encoders import vision_config
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
    _load(text, trained.text_encoder(tensors, sizes), "text_model.")
    text.save_pretrained(workshop.base / "text_encoder")
    noise_schedule().save_pretrained(workshop.base / "scheduler")
    vision = CLIPVisionModelWithProjection(vision_config(sizes))
    _load(vision, trained.part("vision", weights), "vision_model.")
    vision.save_pretrained(workshop.vision)
    save_file({key: _float(value) for key, value in trained.part("backbone", weights).items()}, workshop.backbone)
    shutil.copy(weights / trained.CENTRE_FILE, workshop.folder)
    for part, run, stage in (("faceid", "single", 1), ("router", "pairs", 2)):
        folder = workshop.folder / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(weights / f"{part}.safetensors", folder / RELEASED_NAMES[stage])


def _load(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Load strictly; versions of transformers differ in whether names of a tower's tensors begin with its prefix."""
    own = network.state_dict()
    bare = {key.removeprefix(prefix): _float(value) for key, value in tensors.items()}
    network.load_state_dict({key: bare[key.removeprefix(prefix)] for key in own})
    assert len(bare) == len(own), sorted(bare)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
