"""UniID's identity term in a cross-attention layer of SDXL, with normalised rescaling (docs/uniid.md, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionFunction, torch_attention
from .projection import KeysValues, sum_over_people, token_attention

SMALLEST_NORM = 1e-6  # the published epsilon


def uniid_attention(
    q: Tensor,
    text_result: Tensor,
    people: Sequence[KeysValues],
    weights: Tensor | None,
    heads: int,
    rescaling: bool = True,
    attention: AttentionFunction = torch_attention,
) -> Tensor:
    """What several people add to a cross-attention layer's result before to_out: (B, n, C) in q's dtype, unscaled.

    q and text_result (B, n, C), heads merged; people holds each one's keys and values (b, m, C), b = 1 or B, m may
    differ. weights (B or 1, n or 1, N): masks, shares, strengths or their product; None is one person who counts
    everywhere. With rescaling each person's part gets the norm of the text's result under the same weight, so that a
    small mask does not get the whole picture's (docs/uniid.md, 6.1).
    """

    def term(kv: KeysValues, weight: Tensor | None) -> Tensor:
        attended = token_attention(q, kv, heads, attention)
        measure = text_result
        if weight is not None:
            weight = weight.to(attended)
            attended, measure = weight * attended, weight * measure
        return rescaled(attended, measure) if rescaling else attended

    return sum_over_people(term, people, weights)


def rescaled(term: Tensor, measure: Tensor) -> Tensor:
    """The term (B, n, C) with the norm of the measure (B, n, C): one Frobenius norm for each row of the batch.

    Norms and factor are at least float32: the published order of operations, term times norm first, overflows in half
    precision. If the norm of any row is below 1e-6, 1e-6 is added to those of all rows, as published: a zero term stays
    zero.
    """
    working = torch.promote_types(term.dtype, torch.float32)
    norms, wanted = (
        torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=working) for x in (term, measure)
    )  # (B, 1, 1)
    norms = norms + SMALLEST_NORM * (norms.amin() < SMALLEST_NORM)
    return (term * (wanted / norms)).to(term.dtype)


@dataclass(frozen=True)
class UniIDTerm:
    """UniID's identities in one layer, for `attention_layer.cross_attention_layer`; fields as in `uniid_attention`."""

    people: Sequence[KeysValues]
    scale: float
    weights: Tensor | None = None
    rescaling: bool = True

    def added(self, q: Tensor, text_result: Tensor, heads: int, attention: AttentionFunction) -> Tensor:
        """The term (B, n, C), before its scale."""
        return uniid_attention(q, text_result, self.people, self.weights, heads, self.rescaling, attention)
