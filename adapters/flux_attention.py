"""PuLID's cross-attention blocks for FLUX, folded into the tokens that they attend to (docs/pulid.md, 4).

B batch rows, N people, m tokens of each, n image tokens, h heads of width d, X the image tokens' width (3072).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Operations, split_heads
from .checkpoint import Checkpoint
from .perceiver import PerceiverProjections, num_heads
from .routing import shares_by_attention

HEADS_KEY = "likeness.ca_heads"  # metadata of files whose heads are not 128 wide
EPSILON = 1e-5  # of norm2, whose normalisation is done without its module


@dataclass(frozen=True)
class FluxAttentionSizes:
    """The sizes of a `FluxCrossAttention`; the defaults are the released ones."""

    dim: int = 3072  # image tokens
    context: int = 2048  # identity tokens
    heads: int = 16
    dim_head: int = 128

    @classmethod
    def from_checkpoint(cls, file: Checkpoint, prefix: str, context: int) -> FluxAttentionSizes:
        """Read the sizes off the tensors under prefix; heads are 128 wide unless metadata has `likeness.ca_heads`.

        context is the width of the encoder's tokens.

        Raises CheckpointError if a tensor is missing or the number of heads cannot be told.
        """
        inner, dim = file.shape(prefix + "to_q.weight", 2)
        heads = num_heads(file, inner, HEADS_KEY, dim_head=128)
        return cls(dim, context, heads, inner // heads)


class FoldedTokens(NamedTuple):
    """One block's view of N people's tokens, with its query and output projections folded in; b is 1 or B."""

    keys: Tensor  # (b, N, h, m, X)
    biases: Tensor  # (b, N, h, m)
    values: Tensor  # (b, N, h, m, X)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> FoldedTokens:
        """The same on another device or in another dtype."""
        return FoldedTokens(*(x.to(device, dtype) for x in self))


class FluxCrossAttention(PerceiverProjections):
    """One block: image tokens attend to identity tokens, both normalised first; released as `pulid_ca.J`.

    What the block adds to image tokens x is softmax(Wq·norm2(x)·Kᵀ/√d)·V·Woᵀ, head by head. The tokens do not change
    while sampling, and a person has only 32: Wq and norm2's affine part go into the keys, Wo into the values, once. A
    step is then one product with 512 rows for each person instead of two with 2048, and needs no weights of the block.
    Training uses the same: gradients reach all weights through the folded tokens.
    """

    def __init__(
        self,
        sizes: FluxAttentionSizes | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = FluxAttentionSizes() if sizes is None else sizes
        super().__init__(sizes.dim, sizes.heads, sizes.dim_head, sizes.context, operations, device, dtype)
        self.sizes = sizes

    def fold(self, tokens: Tensor) -> FoldedTokens:
        """Fold the tokens (b, N, m, D) of N people, in their dtype; float32 before it is lowered for sampling."""
        b, people = tokens.shape[:2]
        features = self.norm1(tokens.flatten(0, 1))
        keys, values = (split_heads(x, self.heads) for x in self.to_kv(features).chunk(2, dim=-1))  # (b·N, h, m, d)
        # Read without the layers' forward, which takes inputs; a host may keep the weights elsewhere.
        query, out, scale, shift = (
            x.to(device=keys.device, dtype=keys.dtype)
            for x in (self.to_q.weight, self.to_out.weight, self.norm2.weight, self.norm2.bias)
        )
        heads = (self.heads, -1)
        keys = (keys * keys.shape[-1] ** -0.5) @ query.unflatten(0, heads)  # (b·N, h, m, d)·(h, d, X)
        folded = (keys * scale, keys @ shift, values @ out.T.unflatten(0, heads))
        return FoldedTokens(*(x.unflatten(0, (b, people)) for x in folded))


def folded_logits(x: Tensor, folded: FoldedTokens) -> Tensor:
    """Attention logits (B, n, N, h, m), already divided by √d, of image tokens x (B, n, X)."""
    rows, *groups = folded.biases.shape
    assert rows in (1, x.shape[0]), f"tokens of {rows} rows for a batch of {x.shape[0]}"
    normalised = F.layer_norm(x, x.shape[-1:], eps=EPSILON)
    keys, biases = folded.keys.flatten(1, 3).to(x), folded.biases.flatten(1).to(x)
    if rows == 1:
        logits = F.linear(normalised, keys[0], biases[0])
    else:
        logits = torch.baddbmm(biases[:, None], normalised, keys.transpose(1, 2))
    return logits.unflatten(-1, groups)


def folded_output(logits: Tensor, folded: FoldedTokens, weights: Tensor | None) -> Tensor:
    """What the people add to the image tokens, (B, n, X) in the logits' dtype, before the strength.

    weights (B or 1, n or 1, N): masks, shares, strengths or their product; None is one person who counts everywhere.
    The softmax is computed in float32.
    """
    people = logits.shape[2]
    assert weights is not None or people == 1, f"{people} people need weights"
    assert weights is None or weights.shape[-1] == people, (tuple(weights.shape), people)
    attended = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if weights is not None:
        attended = attended * weights.to(attended)[..., None, None]
    attended = attended.flatten(2).to(logits.dtype)
    values = folded.values.flatten(1, 3).to(logits)
    return attended @ (values[0] if len(values) == 1 else values)


def folded_shares(logits: Tensor) -> Tensor:
    """Each person's share (B, n, N) of every position, by attention: `routing.shares_by_attention` of these logits."""
    return shares_by_attention([each.transpose(1, 2) for each in logits.unbind(2)])
