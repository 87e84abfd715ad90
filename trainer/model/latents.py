"""Pictures to latents and back; the one place where latents are scaled.

Letters: B pictures, H, W pixels, c channels and h, w size of the latent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...adapters.checkpoint import fingerprint
from . import single_file

NO_SPREAD = -30.0  # log variance of an autoencoder without a posterior (AutoencoderTiny): its latent is the mean


@dataclass(frozen=True)
class LatentFormat:
    """The U-Net's latents: (z - shift)·factor of the autoencoder's z, `channels` deep, `downscale` times smaller."""

    factor: float
    shift: float
    channels: int
    downscale: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LatentFormat:
        """Read it off a diffusers VAE's configuration."""
        blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
        return cls(
            factor=float(config.get("scaling_factor", 1.0)),
            shift=float(config.get("shift_factor") or 0.0),
            channels=int(config.get("latent_channels", 4)),
            downscale=2 ** (len(blocks) - 1),
        )

    def scaled(self, z: Tensor) -> Tensor:
        """The autoencoder's z as the U-Net wants it."""
        return (z - self.shift) * self.factor

    def unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        return latents / self.factor + self.shift

    def sampled(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """A scaled latent from the posterior, float32: mean + exp(logvar / 2)·noise."""
        return self.scaled(mean.float() + (0.5 * logvar.float()).exp() * noise)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of a picture's latent. Raises ValueError if the size does not divide."""
        if height % self.downscale or width % self.downscale:
            raise ValueError(f"pictures of {height} x {width} pixels: both must be multiples of {self.downscale}.")
        return height // self.downscale, width // self.downscale


class LatentEncoder:
    """A frozen VAE: diffusers' AutoencoderKL, or AutoencoderTiny, which has no posterior: its logvar is NO_SPREAD."""

    def __init__(self, vae: Any) -> None:
        self.fingerprint = fingerprint(vae.state_dict())
        self.format = LatentFormat.from_config(vae.config)
        self.vae = vae.eval().requires_grad_(False)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> LatentEncoder:
        """Move the network; returns self."""
        nn.Module.to(self.vae, device, dtype)  # diffusers' own warns of lists of modules to keep, even empty ones
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (B, c, h, w) float32 and unscaled, of pixels (B, 3, H, W) in [-1, 1]."""
        pixels = pixels.to(self.vae.device, self.vae.dtype)
        with torch.autocast(pixels.device.type, enabled=False):
            encoded = self.vae.encode(pixels)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean.float(), encoded.latent_dist.logvar.float()
        return encoded.latents.float(), torch.full_like(encoded.latents, NO_SPREAD, dtype=torch.float32)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) float32 in [-1, 1], from scaled latents (B, c, h, w)."""
        z = self.format.unscaled(latents.float()).to(self.vae.device, self.vae.dtype)
        with torch.autocast(z.device.type, enabled=False):
            return self.vae.decode(z).sample.float().clamp(-1.0, 1.0)


def load_latent_encoder(path: str | Path, device: torch.device | str, dtype: torch.dtype) -> LatentEncoder:
    """Load the VAE of a base model: a diffusers folder, its vae/ folder alone, or a single SD 1.5 file.

    Raises ValueError naming what is missing.
    """
    path = Path(path)
    vae = vae_of_folder(vae_folder(path)) if path.is_dir() else single_file.vae_of(single_file.read(path))
    return LatentEncoder(vae).to(device, dtype)


def vae_folder(path: Path) -> Path:
    """The folder of the VAE: path itself, or its vae/. Raises ValueError if neither holds one."""
    for folder in (path / "vae", path):
        config = folder / "config.json"
        if config.is_file() and "Autoencoder" in str(json.loads(config.read_text("utf-8")).get("_class_name")):
            return folder
    raise ValueError(f"{path} holds no VAE: expected vae/config.json of an AutoencoderKL or AutoencoderTiny.")


def vae_config(folder: Path) -> dict[str, Any]:
    """The configuration of a VAE folder."""
    return json.loads((folder / "config.json").read_text("utf-8"))


def vae_of_folder(folder: Path) -> Any:
    """The network of a VAE folder, as stored. Raises ValueError for kinds other than the two."""
    import diffusers

    name = vae_config(folder).get("_class_name")
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"{folder} is a {name}; only AutoencoderKL and AutoencoderTiny are supported.")
    return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
