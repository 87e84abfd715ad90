"""Self-attention that also sees a reference picture in the batch (StyleAligned, for UniPortrait's style mode)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import merge_heads, split_heads


@dataclass(frozen=True)
class Sharing:
    """How strongly the reference's tokens count: shift is added to their logits, scale multiplies them."""

    score_shift: float = 0.0
    score_scale: float = 1.0
    adain: bool = False


def shared_self_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, sharing: Sharing, num_chunks: int = 2) -> Tensor:
    """Attention of each row to its own tokens and to those of the reference, row 0 of its chunk.

    q, k, v (B, n, C) with merged heads; the batch is num_chunks equal chunks (the guidance halves). Returns (B, n, C).
    torch's own attention is used and not the host's, because the shift needs a mask, which not every host function
    takes.
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))  # (B, heads, n, d)
    reference = _reference_rows(q.shape[0], num_chunks, q.device)
    if sharing.adain:
        q, k = _adain(q, q[reference]), _adain(k, k[reference])
    shared_keys = k[reference]
    if sharing.score_scale != 1.0:
        own = reference == torch.arange(q.shape[0], device=q.device)
        shared_keys = shared_keys * torch.where(own, 1.0, sharing.score_scale).to(k)[:, None, None, None]
    keys, values = torch.cat([k, shared_keys], dim=2), torch.cat([v, v[reference]], dim=2)
    mask = None
    if sharing.score_shift != 0.0:
        mask = q.new_zeros(1, 1, 1, keys.shape[2])
        mask[..., k.shape[2] :] = sharing.score_shift
        mask = mask.expand(-1, -1, q.shape[2], -1)
    return merge_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))


def without_reference_rows(term: Tensor, num_chunks: int = 2) -> Tensor:
    """The term (B, n, C) with zeros in the reference rows: while sharing they get no identity and no image prompt."""
    own = torch.arange(term.shape[0], device=term.device)
    return torch.where((own == _reference_rows(term.shape[0], num_chunks, term.device))[:, None, None], 0.0, term)


def _reference_rows(batch: int, num_chunks: int, device: torch.device) -> Tensor:
    assert batch % num_chunks == 0, f"a batch of {batch} rows does not divide into {num_chunks} chunks"
    rows = torch.arange(batch, device=device)
    return rows - rows % (batch // num_chunks)


def _adain(x: Tensor, reference: Tensor) -> Tensor:
    """Give x the reference's mean and deviation over the tokens, per head and channel; (B, heads, n, d)."""
    mean, std = _moments(x)
    reference_mean, reference_std = _moments(reference)
    return (x - mean) / std * reference_std + reference_mean


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(2, keepdim=True), (x.var(2, keepdim=True) + 1e-5).sqrt()
