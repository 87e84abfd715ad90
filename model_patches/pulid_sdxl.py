"""PuLID in the cross-attention layers of an SDXL model (docs/pulid.md, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..adapters.attention import AttentionFunction
from ..adapters.projection import KeysValues
from ..adapters.pulid_attention import pulid_attention
from .pulid_patch import PulidPatch
from .sdxl_layers import SdxlPatch


class PulidSdxlPatch(PulidPatch, SdxlPatch):
    """One Apply node's state on an SDXL model; O of the formulas is what the slot would give without us."""

    @property
    def num_zero(self) -> int:
        return self.settings.injection.num_zero

    @property
    def merges(self) -> bool:
        # In the ortho forms each person has a projection of their own, taken where their mask is.
        return self.settings.injection.form == "plain" or not self.regions.masked

    def added(
        self,
        q: torch.Tensor,
        text_result: torch.Tensor,
        people: Sequence[KeysValues],
        weights: torch.Tensor | None,
        heads: int,
        attention: AttentionFunction,
    ) -> torch.Tensor:
        return pulid_attention(q, text_result, people, weights, heads, self.settings.injection.form, attention)
