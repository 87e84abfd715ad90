"""UniID's networks as ComfyUI's memory manager holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy.model_patcher import ModelPatcher

from ..adapters.identity import Identity
from ..adapters.uniid import UniID
from .managed import managed

if TYPE_CHECKING:
    from .uniid_encoder import UniidEncoder

SYSTEM = "uniid"


class UniidModels:
    """LIKENESS_ADAPTER on the wire: a loaded UniID with one branch or both.

    `patchers` holds what sampling needs, "projections" with the adapter branch: while a run begins, not at its steps.

    Args:
        weights: the adapter, made with ComfyUI's casting layers.
        encoder: None for models that only apply saved identities.
    """

    system = SYSTEM

    def __init__(self, weights: UniID, encoder: UniidEncoder | None = None) -> None:
        self.weights = weights
        self.encoder = encoder
        self.patchers: dict[str, ModelPatcher] = {}
        if weights.projections is not None:
            self.patchers["projections"] = managed(weights.projections)

    def made(self, identity: Identity) -> bool:
        """True if an identity of UniID has tokens from each of these branches; it may have the other's too."""
        text, _, adapter = identity.adapter.partition("+")
        own, parts = self.weights.fingerprints, self.weights
        return (parts.text_branch is None or ("text" in identity.tokens and text == own["text"])) and (
            parts.projections is None or (len(identity.tokens["cond"]) > 0 and adapter == own["adapter"])
        )
