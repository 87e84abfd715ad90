"""All randomness of a training sample: a pure function of the seed, the sample's position and the purpose.

So it does not depend on how many processes share a batch, on what else is in it, or on restarts.
Letters: B samples, N faces, c, h, w latent, T timesteps, s structure tokens, P positions of all cross-attention layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from ...adapters.layers import SD15_LAYERS
from ...adapters.routing import gumbel_of_exponential
from ..batch import Batch
from .settings import DroppingSettings, ModelSettings

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What random numbers are for; the numbers never change, or resumed runs would not continue."""

    TIMESTEP = 0
    NOISE = 1
    LATENT = 2
    CONDITIONS = 3
    STRUCTURE = 4
    OTHER_PHOTO = 5
    ROUTING = 6
    OFFSET = 7
    SAMPLING = 8


def generator_of(seed: int, position: int, purpose: Purpose) -> np.random.Generator:
    """The random numbers of one sample for one purpose; streams never overlap (Philox: key and counter)."""
    counter = [0, 0, position & _MASK, int(purpose)]
    return np.random.Generator(np.random.Philox(key=seed & _MASK, counter=counter))


def normal_noise(seed: int, position: int, purpose: Purpose, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers of one sample, float32 on the CPU."""
    return torch.from_numpy(generator_of(seed, position, purpose).standard_normal(shape, dtype=np.float32))


@dataclass(frozen=True)
class DrawShapes:
    """The sizes that decide how many random numbers a sample needs."""

    latent: tuple[int, int, int]  # (c, h, w)
    timesteps: int
    structure_tokens: int


@dataclass(frozen=True)
class Draws:
    """The random part of a batch."""

    timesteps: Tensor  # (B,) int64
    noise: Tensor  # (B, c, h, w) float32
    latent_noise: Tensor  # (B, c, h, w) float32: where in the VAE's posterior the latent lies
    drop_face: Tensor  # (B,) bool
    drop_text: tuple[bool, ...]
    structure_scale: Tensor  # (B,) float32: β, 0 where the branch is dropped
    structure_keep: Tensor  # (B, N, s) bool: which structure tokens stay
    other_photo: Tensor  # (B,) bool
    routing: Tensor | None  # (B, P, N) float32 Gumbel noise, layer after layer; stage II

    def to(self, device: torch.device | str) -> Draws:
        """Return the draws with every tensor on the device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items() if isinstance(v, Tensor)}
        )


def draw(batch: Batch, shapes: DrawShapes, settings: ModelSettings, seed: int) -> Draws:
    """Draw for every sample of a batch; positions and validity are read on the CPU, where the result is."""
    positions = batch.positions.tolist()
    valid = batch.valid.cpu()
    _check_faces(batch.keys, valid, settings.stage)
    has_other = [False] * len(batch) if batch.has_other is None else batch.has_other.tolist()

    def each(purpose: Purpose, take: Callable[[np.random.Generator], float]) -> list[float]:
        return [take(generator_of(seed, position, purpose)) for position in positions]

    def normal(purpose: Purpose, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([normal_noise(seed, position, purpose, shape) for position in positions])

    dropping = settings.dropping
    conditions = each(Purpose.CONDITIONS, lambda numbers: numbers.random())
    other = each(Purpose.OTHER_PHOTO, lambda numbers: numbers.random())
    noise = normal(Purpose.NOISE, shapes.latent)
    if settings.loss.noise_offset:
        noise = noise + settings.loss.noise_offset * normal(Purpose.OFFSET, (shapes.latent[0], 1, 1))
    scale, keep = _structure(positions, valid, shapes.structure_tokens, settings, seed)
    return Draws(
        timesteps=torch.tensor(each(Purpose.TIMESTEP, lambda numbers: int(numbers.integers(shapes.timesteps)))),
        noise=noise,
        latent_noise=normal(Purpose.LATENT, shapes.latent),
        drop_face=torch.tensor([_drops_face(number, dropping) for number in conditions]),
        drop_text=tuple(_drops_text(number, dropping) for number in conditions),
        structure_scale=scale,
        structure_keep=keep,
        other_photo=torch.tensor([u < dropping.other_photo and has for u, has in zip(other, has_other, strict=True)]),
        routing=_routing(positions, valid, shapes.latent[1:], seed) if settings.routes else None,
    )


def cross_layer_sizes(height: int, width: int) -> dict[int, tuple[int, int]]:
    """Layer number -> (h, w) of every cross-attention layer for a latent of that size, in a fixed order."""
    return {layer.number: layer.grid(height, width) for layer in SD15_LAYERS if layer.is_cross}


def split_layers(joined: Tensor, height: int, width: int) -> dict[int, Tensor]:
    """(B, P, N) -> layer number -> (B, h·w, N), views."""
    sizes = cross_layer_sizes(height, width)
    parts = joined.split([h * w for h, w in sizes.values()], dim=1)
    return dict(zip(sizes, parts, strict=True))


def _check_faces(keys: tuple[str, ...], valid: Tensor, stage: int) -> None:
    for key, count in zip(keys, valid.sum(1).tolist(), strict=True):
        if count < 1 or (stage == 1 and count != 1):
            wanted = "exactly one" if stage == 1 else "at least one"
            raise ValueError(f"sample {key} has {count} faces; stage {stage} takes pictures with {wanted}.")


def _drops_face(number: float, dropping: DroppingSettings) -> bool:
    return number < dropping.face + dropping.both


def _drops_text(number: float, dropping: DroppingSettings) -> bool:
    return dropping.face <= number < dropping.face + dropping.both + dropping.text


def _structure(
    positions: list[int], valid: Tensor, num_tokens: int, settings: ModelSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """β (B,) and kept tokens (B, N, s): one way of dropping for each sample, own tokens for each face."""
    dropping = settings.dropping
    scale = torch.ones(len(positions))
    keep = torch.ones(*valid.shape, num_tokens, dtype=torch.bool)
    for row, position in enumerate(positions):
        numbers = generator_of(seed, position, Purpose.STRUCTURE)
        way = numbers.random()
        if way < dropping.structure_path:
            scale[row] = 0.0
        elif way < dropping.structure_path + dropping.structure_tokens:
            rate = dropping.token_rate
            rate = numbers.uniform(*rate) if isinstance(rate, tuple) else rate
            kept = numbers.random((int(valid[row].sum()), num_tokens), dtype=np.float32) >= rate
            keep[row, valid[row]] = torch.from_numpy(kept)
    return scale, keep


def _routing(positions: list[int], valid: Tensor, latent: tuple[int, int], seed: int) -> Tensor:
    """Gumbel noise (B, P, N); the numbers of a sample's own faces do not depend on the padding."""
    total = sum(h * w for h, w in cross_layer_sizes(*latent).values())
    exponential = torch.ones(len(positions), valid.shape[1], total)
    for row, position in enumerate(positions):
        numbers = generator_of(seed, position, Purpose.ROUTING)
        count = int(valid[row].sum())
        own = numbers.standard_exponential((count, total), dtype=np.float32)
        exponential[row, valid[row]] = torch.from_numpy(own)
    return gumbel_of_exponential(exponential).transpose(1, 2)
