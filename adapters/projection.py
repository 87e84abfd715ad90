"""Identity and image-prompt tokens as extra keys and values of a cross-attention layer, in all systems."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import AttentionFunction, Operations, torch_attention


class KeysValues(NamedTuple):
    """Keys and values of one block of tokens, each (b, m, C), or of N equally long blocks, (b, N, m, C)."""

    keys: Tensor
    values: Tensor


class TokenProjection(nn.Module):
    """Two bias-free projections of tokens to keys and values, the same for every identity."""

    def __init__(
        self,
        hidden: int,
        context: int,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.to_k = operations.Linear(context, hidden, bias=False, device=device, dtype=dtype)
        self.to_v = operations.Linear(context, hidden, bias=False, device=device, dtype=dtype)

    def forward(self, tokens: Tensor) -> KeysValues:
        """Project tokens (..., m, D) to keys and values (..., m, C)."""
        return KeysValues(self.to_k(tokens), self.to_v(tokens))


def token_attention(q: Tensor, kv: KeysValues, heads: int, attention: AttentionFunction = torch_attention) -> Tensor:
    """Attention of q (B, n, C) to one block of tokens (b, m, C), b = 1 (the same for every row) or B; (B, n, C)."""
    rows = kv.keys.shape[0]
    assert rows in (1, q.shape[0]), f"tokens of {rows} rows for a batch of {q.shape[0]}"
    keys, values = (x.to(q).expand(q.shape[0], -1, -1) for x in kv)
    return attention(q, keys, values, heads)


def identity_attention(
    q: Tensor,
    kv: KeysValues,
    weights: Tensor | None,
    heads: int,
    attention: AttentionFunction = torch_attention,
) -> Tensor:
    """Sum over the identities of weight times attention to that identity's own tokens (UniPortrait, eq. 4).

    q (B, n, C); kv holds (b, N, m, C) with b = 1 (the same for every row) or B; weights (B or 1, n, N), or None where
    there is one identity which counts everywhere. Each identity has its own softmax over its m tokens.
    Returns (B, n, C) in q's dtype. One image prompt is the case N = 1, with a mask as weights.
    """
    num_identities = kv.keys.shape[1]
    assert weights is not None or num_identities == 1, f"{num_identities} identities need weights"
    assert weights is None or weights.shape[-1] == num_identities, (tuple(weights.shape), num_identities)

    def attend(index: int) -> Tensor:
        return token_attention(q, KeysValues(kv.keys[:, index], kv.values[:, index]), heads, attention)

    if weights is None:
        return attend(0)
    weights = weights.to(q)
    total = weights[:, :, :1] * attend(0)
    for index in range(1, num_identities):
        total = total + weights[:, :, index : index + 1] * attend(index)
    return total
