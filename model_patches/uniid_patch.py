"""How an Apply UniID node was set, and UniID's adapter branch in the layers of SDXL (docs/uniid.md, 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..adapters.attention import AttentionFunction
from ..adapters.projection import KeysValues
from ..adapters.uniid_attention import uniid_attention
from .identity_patch import PeopleSettings
from .merge_step import MergePoint, MergeStep
from .sampling_run import Run
from .sdxl_layers import SdxlPatch

TITLE = "Apply UniID"
TOGETHER = "together"
BY_MASK = "by mask"
SEVERAL_TEXTS = (TOGETHER, BY_MASK)


class Scales(NamedTuple):
    """A branch's factors before and after the merge point."""

    before: float
    after: float

    @property
    def has_effect(self) -> bool:
        """False if both are 0, which leaves the branch out."""
        return self != (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class UniidSettings(PeopleSettings):
    """How an Apply node was set; the defaults are the published ones.

    start_percent, end_percent, keep_soft_edges and sharing are about the adapter branch.

    Attributes:
        merge: from when on the second scales count.
        text, adapter: the scales of the two branches.
        rescaling: give the adapter's part of each layer the norm of the text's, as published for inference.
        several_texts: where the words of several people count: all "together" in one prompt, or "by mask" each in
            their own mask, at the cost of one more evaluation of the model for each.
    """

    title = TITLE

    merge: MergePoint = MergeStep()
    text: Scales = Scales(0.5, 1.8)
    adapter: Scales = Scales(0.8, 1.2)
    rescaling: bool = True
    several_texts: str = TOGETHER

    @property
    def has_effect(self) -> bool:
        """False if the adapter branch is left out."""
        return self.adapter.has_effect

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.several_texts not in SEVERAL_TEXTS:
            raise ValueError(
                f'{TITLE}: the words of several people count {" or ".join(SEVERAL_TEXTS)}, not "{self.several_texts}".'
            )


class UniidPatch(SdxlPatch):
    """The adapter branch of one Apply node."""

    family = "likeness.uniid"
    settings: UniidSettings

    @property
    def merges(self) -> bool:
        return True

    @property
    def measures_text(self) -> bool:
        return self.settings.rescaling

    def scale_at(self, run: Run, sigma: float) -> float:
        before, after = self.settings.adapter
        threshold = run.cached("merge", lambda: self.settings.merge.threshold(run.schedule))
        return after if sigma <= threshold else before

    def added(
        self,
        q: torch.Tensor,
        text_result: torch.Tensor,
        people: Sequence[KeysValues],
        weights: torch.Tensor | None,
        heads: int,
        attention: AttentionFunction,
    ) -> torch.Tensor:
        return uniid_attention(q, text_result, people, weights, heads, self.settings.rescaling, attention)
