"""Pictures from a base model with an adapter: deterministic DDIM with classifier-free guidance, in batches.

Each picture's noise comes from its own seed, so it does not depend on what else is in the batch.
Letters: P pictures, N people of one, m tokens of one person, D their width, c, h, w latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...adapters.identity import Identity
from ...adapters.inversion import sampling_timesteps
from ...adapters.routing import hard_routing
from .base_model import BaseModel
from .draws import Purpose, cross_layer_sizes, normal_noise
from .host import DiffusersHost, IdentityCall


@dataclass(frozen=True)
class Picture:
    """What one picture shall show: nobody in particular, one person or several."""

    caption: str
    identities: tuple[Identity, ...] = ()
    seed: int = 0
    negative: str = ""


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are made; the defaults are those of the published demo, at full identity scale as in training.

    Attributes:
        joined: give every position the tokens of all people as one block, without the router.
        batch: so many pictures at a time.
        routing_maps: keep where each person was drawn.
    """

    steps: int = 25
    guidance: float = 7.5
    id_scale: float = 1.0
    lora_scale: float = 1.0
    joined: bool = False
    batch: int = 8
    routing_maps: bool = False


@dataclass(frozen=True)
class Samples:
    """The pictures (H, W, 3) uint8, and for each its routing maps: layer -> (N, h, w), the share of the steps."""

    images: tuple[np.ndarray, ...]
    routing: tuple[dict[int, Tensor], ...]


@torch.no_grad()
def sample(
    base: BaseModel, host: DiffusersHost, pictures: Sequence[Picture], size: tuple[int, int], settings: SamplingSettings
) -> Samples:
    """Make pictures of `size` (height, width) pixels.

    As in the nodes, pictures of one person use the single LoRA set, of several the multi set and the router, of nobody
    neither. Raises ValueError if the base model was loaded without its VAE or a router is missing.
    """
    if base.vae is None:
        raise ValueError("pictures cannot be decoded: the base model was loaded without its VAE.")
    if host.adapter.routers is None and any(len(picture.identities) > 1 for picture in pictures):
        raise ValueError("a picture of several people needs an adapter with routers (stage II).")
    shape = (base.latents.channels, *base.latents.size(*size))
    images: dict[int, np.ndarray] = {}
    routing: dict[int, dict[int, Tensor]] = {}
    for numbers in _groups(pictures, settings.batch):
        run = _Run(base, host, [pictures[number] for number in numbers], shape, settings)
        decoded = base.vae.decode(run.denoise())
        pixels = ((decoded + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu().numpy()
        images.update(zip(numbers, pixels, strict=True))
        routing.update(zip(numbers, run.routing_maps(), strict=True))
    order = range(len(pictures))
    return Samples(tuple(images[number] for number in order), tuple(routing[number] for number in order))


@dataclass
class _Run:
    """One batch of pictures with equally many people each; rows are the negative half, then the positive."""

    base: BaseModel
    host: DiffusersHost
    pictures: Sequence[Picture]
    shape: tuple[int, int, int]
    settings: SamplingSettings
    counts: dict[int, Tensor] = field(
        default_factory=dict
    )  # layer -> (P, n, N): steps in which a person had a position

    def denoise(self) -> Tensor:
        """The finished latents (P, c, h, w), scaled."""
        noise = [normal_noise(picture.seed, 0, Purpose.SAMPLING, self.shape) for picture in self.pictures]
        latents = torch.stack(noise).to(self.base.device)
        captions = [picture.negative for picture in self.pictures] + [picture.caption for picture in self.pictures]
        text, call = self.base.text(captions), self._call()
        timesteps = sampling_timesteps(self.settings.steps, len(self.base.alphas_cumprod))
        stride = len(self.base.alphas_cumprod) // self.settings.steps
        for timestep in timesteps:
            rows = torch.full((len(text),), timestep, device=latents.device)
            negative, positive = self.host(torch.cat([latents, latents]), rows, text, call).chunk(2)
            guided = negative + self.settings.guidance * (positive - negative)
            latents = self._step(latents, guided, timestep, timestep - stride)
            if call is not None and self.settings.routing_maps:
                self._count(call)
        return latents

    def routing_maps(self) -> list[dict[int, Tensor]]:
        """For each picture: layer -> (N, h, w) float32 on the CPU; empty where nothing was routed."""
        sizes = cross_layer_sizes(*self.shape[1:])
        shares = {
            number: (count / self.settings.steps).transpose(1, 2).unflatten(-1, sizes[number]).cpu()
            for number, count in self.counts.items()
        }
        return [{number: maps[row] for number, maps in shares.items()} for row in range(len(self.pictures))]

    def _call(self) -> IdentityCall | None:
        people = [picture.identities for picture in self.pictures]
        if not people[0] or (self.settings.id_scale <= 0 and self.settings.lora_scale <= 0):
            return None
        halves = [
            torch.stack([torch.stack([person.tokens[half] for person in row]) for row in people])
            for half in ("uncond", "cond")
        ]
        tokens = torch.cat(halves).to(self.base.device)  # (2P, N, m, D)
        several = tokens.shape[1] > 1
        return self.host.prepare(
            tokens,
            "lora_multi" if several else "lora_single",
            joined=several and self.settings.joined,
            id_scale=self.settings.id_scale,
            lora_scale=self.settings.lora_scale,
        )

    def _step(self, latents: Tensor, predicted: Tensor, timestep: int, following: int) -> Tensor:
        """DDIM without noise; the level below the last timestep is the first of the schedule."""
        alphas = self.base.alphas_cumprod
        now, then = float(alphas[timestep]), float(alphas[max(following, 0)])
        if self.base.prediction_type == "v_prediction":
            clean = now**0.5 * latents - (1.0 - now) ** 0.5 * predicted
            noise = now**0.5 * predicted + (1.0 - now) ** 0.5 * latents
        else:
            noise = predicted
            clean = (latents - (1.0 - now) ** 0.5 * noise) / now**0.5
        return then**0.5 * clean + (1.0 - then) ** 0.5 * noise

    def _count(self, call: IdentityCall) -> None:
        for number, logits in call.logits.items():
            chosen = hard_routing(logits[len(self.pictures) :].float())
            self.counts[number] = self.counts.get(number, 0) + chosen


def _groups(pictures: Sequence[Picture], batch: int) -> Iterator[list[int]]:
    """Numbers of pictures with equally many people, at most `batch` together."""
    for count in sorted({len(picture.identities) for picture in pictures}):
        numbers = [number for number, picture in enumerate(pictures) if len(picture.identities) == count]
        for start in range(0, len(numbers), batch):
            yield numbers[start : start + batch]
