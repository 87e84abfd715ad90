"""The parts that the identity resamplers are made of: attention of learned queries to features, and feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Operations, merge_heads, split_heads

MASKED_LOGIT = -100.0  # what the published code adds to the logits of a masked feature token


class PerceiverAttention(nn.Module):
    """Latents attend to [features, latents]; both are normalised first, no projection has a bias."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int = 64,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.heads = heads
        inner = heads * dim_head
        self.norm1 = operations.LayerNorm(dim, **place)
        self.norm2 = operations.LayerNorm(dim, **place)
        self.to_q = operations.Linear(dim, inner, bias=False, **place)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **place)
        self.to_out = operations.Linear(inner, dim, bias=False, **place)

    def forward(self, features: Tensor, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """features (b, n, dim), latents (b, l, dim) -> (b, l, dim).

        mask (b, n, 1): 1 keeps a feature token, 0 drops it; latents always attend to each other.
        """
        features, latents = self.norm1(features), self.norm2(latents)
        keys, values = self.to_kv(torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (split_heads(x, self.heads) for x in (self.to_q(latents), keys, values))
        scale = q.shape[-1] ** -0.25  # on both sides: in half precision q·k alone could overflow
        logits = (q * scale) @ (k * scale).transpose(-1, -2)  # (b, heads, l, n + l)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask is not None:
            bias = logits.new_zeros(mask.shape[0], 1, 1, logits.shape[-1])
            bias[..., : mask.shape[1]] = (1.0 - mask[:, None, None, :, 0].to(logits)) * MASKED_LOGIT
            logits = logits + bias
        return self.to_out(merge_heads(logits.softmax(-1).to(v.dtype) @ v))


def feed_forward(
    dim: int,
    mult: int = 4,
    operations: Operations = nn,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """LayerNorm, Linear to dim·mult, exact GELU, Linear back; the linear layers have no bias."""
    place = {"device": device, "dtype": dtype}
    return nn.Sequential(
        operations.LayerNorm(dim, **place),
        operations.Linear(dim, dim * mult, bias=False, **place),
        nn.GELU(),
        operations.Linear(dim * mult, dim, bias=False, **place),
    )
