"""What a host lends to the adapters: its attention function and its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

# (B, n, C), (B, m, C), (B, m, C), heads -> (B, n, C): scaled softmax attention on merged heads.
AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
# A namespace with Linear and LayerNorm that are called like torch.nn's: torch.nn itself, or ComfyUI's operations.
Operations = Any


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, heads·d) -> (B, heads, n, d); head j is the channels from j·d."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, n, d) -> (B, n, heads·d)."""
    return x.transpose(1, 2).flatten(2)


def torch_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q·kᵀ/√d)·v by torch itself; the default where no host lends its own function.

    q (B, n, C), k and v (B, m, C), heads merged; returns (B, n, C).
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v))
