"""UniPortrait's networks as ComfyUI's memory manager holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import nn

from ..adapters.identity import Identity
from ..adapters.projection import TokenProjection
from ..adapters.routing import IDRouter
from ..adapters.uniportrait import UniPortrait
from .managed import managed

if TYPE_CHECKING:
    from .uniportrait_encoder import UniPortraitEncoder

SYSTEM = "uniportrait"
_PARTS = ("projections", "routers", "lora_single", "lora_multi", "ip_projections")


class UniPortraitModels:
    """LIKENESS_ADAPTER on the wire: a loaded UniPortrait.

    Each part has a ModelPatcher of its own, so that a run loads only what it uses.

    Args:
        weights: the adapter, made with ComfyUI's casting layers.
        encoder: None for models that only apply saved identities.
    """

    system = SYSTEM

    def __init__(self, weights: UniPortrait, encoder: UniPortraitEncoder | None = None) -> None:
        self.weights = weights
        self.encoder = encoder
        if weights.routers is not None:
            weights.routers.to(_step_dtype())
        self.patchers = {part: managed(module) for part in _PARTS if (module := getattr(weights, part)) is not None}

    def made(self, identity: Identity) -> bool:
        """True if an identity of UniPortrait comes from this file."""
        return identity.adapter == self.weights.fingerprint

    def projection(self, number: int) -> TokenProjection:
        """Identity keys and values of cross-attention layer `number`."""
        return self._layer("projections", number)

    def ip_projection(self, number: int) -> TokenProjection:
        """Image-prompt keys and values of cross-attention layer `number`."""
        return self._layer("ip_projections", number)

    def router(self, number: int) -> IDRouter:
        """The router of cross-attention layer `number`."""
        return self._layer("routers", number)

    def _layer(self, part: str, number: int) -> Any:
        layers = getattr(self.weights, part)
        assert layers is not None, f"no file with {part} was loaded"
        return layers[str(number)]

    def lora(self, name: str) -> nn.ModuleDict:
        """One LoRA set by the name of its part."""
        return getattr(self.weights, name)


def _step_dtype() -> torch.dtype:
    """For weights that work at every step: half precision only where the device computes in it, or each use casts."""
    device = comfy.model_management.get_torch_device()
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
