"""Identity and image-prompt tokens as extra keys and values of a cross-attention layer, in all systems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
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


def with_zero_tokens(kv: KeysValues, num_zero: int) -> KeysValues:
    """Append num_zero zero tokens to keys and values (b, m, C); to be done once, where they are projected.

    The projections have no bias, so this is the same as projecting zero tokens. It divides an identity's attention by
    1 + num_zero / Σ exp(q·k/√d). That closed form would need the sums, which a host's attention does not give.
    """
    return KeysValues(*(F.pad(x, (0, 0, 0, num_zero)) for x in kv))


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
    people = [KeysValues(*block) for block in zip(*(x.unbind(1) for x in kv), strict=True)]

    def term(person: KeysValues, weight: Tensor | None) -> Tensor:
        attended = token_attention(q, person, heads, attention)
        return attended if weight is None else weight.to(q) * attended

    return sum_over_people(term, people, weights)


def sum_over_people(
    term: Callable[[KeysValues, Tensor | None], Tensor], people: Sequence[KeysValues], weights: Tensor | None
) -> Tensor:
    """The sum of term(person, weight) over people; each one's weight is (B or 1, n or 1, 1).

    weights (B or 1, n or 1, N), or None where there is one person who counts everywhere.
    """
    assert len(people) > 0, "no people"  # not the list itself, which torch.compile would trace as a tensor
    assert weights is not None or len(people) == 1, f"{len(people)} people need weights"
    assert weights is None or weights.shape[-1] == len(people), (tuple(weights.shape), len(people))
    each: Iterable[Tensor | None] = [None] if weights is None else weights.split(1, dim=-1)
    return reduce(torch.add, map(term, people, each))
