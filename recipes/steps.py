"""The recipe's steps before the adapters, each resumable; their results lie in one working folder.

pictures/        drawn pictures, a thousand to a file
vae/ unet/ ...   the base model as a diffusers folder, `base/`, which the trainer reads
encoders/        backbone.safetensors, and the vision tower as a transformers folder
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..demo.tiny_sizes import TinySizes
from ..trainer.data.caching import CacheSettings, make_cache
from ..trainer.model.encoders import load_face_encoders
from ..trainer.model.latents import load_latent_encoder
from .base import LatentSet, noise_schedule, train_base
from .encoders import train_encoders
from .recipe import Recipe
from .sets import write_set
from .slim_taesd import SlimTAESD, autoencoder_tiny
from .text import Words, with_whole_vocabulary
from .vae import encode_all, train_vae
from .world import Pictures, draw_pictures, draw_portraits


@dataclass(frozen=True)
class Workshop:
    """One run of a recipe."""

    recipe: Recipe
    folder: Path
    device: torch.device
    say: Callable[[str], None]
    sizes: TinySizes

    @cached_property
    def singles(self) -> Pictures:
        """The base model's pictures of one person."""
        return self._drawn(1, self.recipe.base_single)

    @cached_property
    def pairs(self) -> Pictures:
        """The base model's pictures of two people, twice as wide."""
        return self._drawn(2, self.recipe.base_pairs)

    @property
    def base(self) -> Path:
        """The base model as a diffusers folder."""
        return self.folder / "base"

    @property
    def slim_vae(self) -> Path:
        """The autoencoder without its zeros."""
        return self.folder / "slim-vae.safetensors"

    @property
    def backbone(self) -> Path:
        return self.folder / "encoders" / "backbone.safetensors"

    @property
    def vision(self) -> Path:
        return self.folder / "encoders" / "vision"

    def cached_set(self, people: int) -> Path:
        """The adapters' training set of pictures of so many people."""
        return self.folder / "sets" / f"{people}-people-cached"

    def make_pictures(self) -> None:
        """Draw what the base model learns from."""
        _ = self.singles, self.pairs

    def make_vae(self) -> None:
        """Train the autoencoder on pictures of one person; it is convolutional and serves every width."""
        channels = self.sizes.latent_channels
        vae = train_vae(self.folder, self.recipe.vae, self.singles.pixels, channels, self.device, self.say)
        autoencoder_tiny(vae, self.sizes).save_pretrained(self.base / "vae")
        save_file(_contiguous(vae), self.slim_vae)

    def make_base(self) -> None:
        """Train U-Net and text encoder on latents, and write the diffusers folder."""
        words = Words((*self.singles.captions, *self.pairs.captions, ""))
        sets = [
            LatentSet(self._latents(pictures, f"latents-{number}.pt"), words.encode(pictures.captions))
            for number, pictures in enumerate((self.singles, self.pairs), 1)
        ]
        model = train_base(self.folder, self.recipe.base, sets, words, self.sizes, self.device, self.say)
        model.unet.save_pretrained(self.base / "unet")
        with_whole_vocabulary(model.text, words, self.sizes).save_pretrained(self.base / "text_encoder")
        noise_schedule().save_pretrained(self.base / "scheduler")

    def make_encoders(self) -> None:
        """Train the recognition backbone and the vision tower."""
        portraits = draw_portraits(self.recipe, self.folder / "portraits", self.device, self.say)
        encoders = train_encoders(self.folder, self.recipe.encoders, portraits, self.sizes, self.device, self.say)
        self.vision.mkdir(parents=True, exist_ok=True)
        save_file(_contiguous(encoders.backbone), self.backbone)
        encoders.vision.save_pretrained(self.vision)

    def make_sets(self) -> None:
        """Draw the adapters' training sets, and keep latents and face features beside the pictures."""
        recipe = self.recipe
        latents = load_latent_encoder(self.base, self.device, torch.float32)
        features = load_face_encoders(self.backbone, self.vision, self.device, torch.float32)
        for people, count in ((1, recipe.adapter_single), (2, recipe.adapter_pairs)):
            drawn = self.folder / "sets" / f"{people}-people"
            write_set(recipe, drawn, people, count, self.device, self.say)
            sizes = ((recipe.side * people, recipe.side),)
            make_cache(CacheSettings(drawn, self.cached_set(people), sizes, batch_size=64), latents, features)

    def _drawn(self, people: int, count: int) -> Pictures:
        return draw_pictures(self.recipe, self.folder / "pictures", people, count, self.device, self.say)

    def _latents(self, pictures: Pictures, name: str) -> Tensor:
        path = self.folder / name
        if not path.exists():
            self.say(f"encoding {len(pictures.captions)} pictures")
            vae = SlimTAESD(self.sizes.latent_channels)
            vae.load_state_dict(load_file(self.slim_vae))
            vae = vae.to(self.device, memory_format=torch.channels_last)
            torch.save(encode_all(vae, pictures.pixels, self.device), path)
        latents: Tensor = torch.load(path, weights_only=True)
        return latents


def _contiguous(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors as safetensors wants them, whatever the memory format it was trained in."""
    return {key: value.contiguous() for key, value in network.state_dict().items()}
