"""What travels from the data to the networks: one batch of pictures of one size, with their faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class FaceFeatures:
    """Cached encoder outputs for crops: intrinsic (B, N, 49, C4) and structure (B, N, 256, Cs), float16 or 32."""

    intrinsic: Tensor
    structure: Tensor


@dataclass(frozen=True)
class Batch:
    """B pictures of H x W pixels with up to N faces each; rows and faces beyond a picture's own are padding.

    Either `pixels` or `latents` is there, and either `crops` or `features`.
    """

    keys: tuple[str, ...]  # names of the samples, for messages
    positions: Tensor  # (B,) int64 global sample positions: all randomness of a sample is seeded by its own
    captions: tuple[str, ...]
    valid: Tensor  # (B, N) bool: which faces are real
    masks: Tensor  # (B, N, H, W) bool: where a face may be (its box, cropped with the picture), for the routing loss
    pixels: Tensor | None = None  # (B, 3, H, W) float32 in [-1, 1]
    latents: Tensor | None = None  # (B, 2, c, h, w) mean and log variance of the VAE's posterior, unscaled
    crops: Tensor | None = None  # (B, N, 224, 224, 3) uint8 RGB, aligned
    features: FaceFeatures | None = None
    has_other: Tensor | None = None  # (B,) bool: another photo of the only person is at hand
    other_crops: Tensor | None = None  # (B, 224, 224, 3) uint8, aligned
    other_intrinsic: Tensor | None = None  # (B, 49, C4) in place of `other_crops`

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on the device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; what torch's DataLoader calls."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = move(value)
            elif isinstance(value, FaceFeatures):
                moved[field.name] = FaceFeatures(move(value.intrinsic), move(value.structure))
        return replace(self, **moved)
