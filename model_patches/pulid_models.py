"""PuLID's networks as ComfyUI's memory manager holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy.model_patcher import ModelPatcher

from ..adapters.identity import Identity
from ..adapters.pulid import PuLID
from .managed import managed

if TYPE_CHECKING:
    from .pulid_encoder import PulidEncoder


class PulidModels:
    """LIKENESS_ADAPTER on the wire: a loaded PuLID.

    `patchers` holds what sampling needs: "projections" for SDXL, "blocks" for FLUX. They are needed while a run begins,
    and not at its steps.

    Args:
        weights: the adapter, made with ComfyUI's casting layers.
        encoder: None for models that only apply saved identities.
    """

    def __init__(self, weights: PuLID, encoder: PulidEncoder | None = None) -> None:
        self.weights = weights
        self.encoder = encoder
        parts = {"projections": weights.projections, "blocks": weights.blocks}
        self.patchers: dict[str, ModelPatcher] = {
            part: managed(module) for part, module in parts.items() if module is not None
        }

    @property
    def system(self) -> str:
        """The system of its identities: "pulid-v1", "pulid-v1.1" or "pulid-flux"."""
        return self.weights.edition

    def made(self, identity: Identity) -> bool:
        """True if an identity of this edition comes from this file."""
        return identity.adapter == self.weights.fingerprint
