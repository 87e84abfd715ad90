"""Which identity each image position belongs to: UniPortrait's ID router (paper section 3.3), or attention itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import Operations, split_heads
from .projection import KeysValues


class IDRouter(nn.Module):
    """The router of one cross-attention layer, under the names of the released files.

    Image positions go through θ (`to_q_router`), identities through an aggregation of their m tokens (`aggr_router`)
    and φ (`to_k_router`); the logit of position and identity is the plain inner product θ(x)·φ(g).

    θ ends in a bias-free linear layer W2, so θ(x)·φ(g) = gelu(W1·x + b1)·(W2ᵀ·φ(g)). `keys` folds W2 into φ(g), which
    does not change while sampling, and `logits` is left with half of θ's work per step. Training uses the same two
    methods: gradients reach W2 through the keys.
    """

    def __init__(
        self,
        hidden: int,
        context: int,
        num_tokens: int,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.to_q_router = nn.Sequential(
            operations.Linear(hidden, 2 * hidden, **place),
            nn.GELU(),
            operations.Linear(2 * hidden, hidden, bias=False, **place),
        )
        self.to_k_router = nn.Sequential(
            operations.Linear(context, 2 * context, **place),
            nn.GELU(),
            operations.Linear(2 * context, hidden, bias=False, **place),
        )
        self.aggr_router = operations.Linear(num_tokens, 1, **place)

    def keys(self, tokens: Tensor) -> Tensor:
        """Router keys of identity tokens (b, N, m, D), folded through W2: (b, N, 2C)."""
        aggregated = self.aggr_router(tokens.transpose(-1, -2)).squeeze(-1)  # (b, N, D)
        keys = self.to_k_router(aggregated)  # (b, N, C)
        # Read without the layer's forward, so that a host that keeps weights elsewhere does not cast it for us.
        last_layer = self.to_q_router[2].weight.to(device=keys.device, dtype=keys.dtype)  # (C, 2C)
        return keys @ last_layer

    def logits(self, x: Tensor, keys: Tensor) -> Tensor:
        """Logits (B, n, N) of positions x (B, n, C), the layer's input before to_q, for keys (B or 1, N, 2C)."""
        hidden = self.to_q_router[1](self.to_q_router[0](x))  # (B, n, 2C)
        return hidden @ keys.to(hidden).transpose(-1, -2)


def hard_routing(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """One-hot weights of the best identity at each position, the lowest index on ties; used in inference.

    logits (B, n, N); valid (B, N) bool is False for padding, which is never chosen. Returns (B, n, N) in logits' dtype;
    a row without any valid identity is zero.
    """
    logits = _mask_padding(logits, valid)
    # torch.argmax returns the first of equal maxima; scatter needs no copy from the device, unlike one_hot.
    weights = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    return _zero_padding(weights, valid)


def soft_routing(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Softmax ψ over the identities, which the routing loss compares with the face boxes; at least float32."""
    working = torch.promote_types(logits.dtype, torch.float32)
    return _zero_padding(_mask_padding(logits.to(working), valid).softmax(-1), valid)


def straight_through_routing(
    logits: Tensor,
    tau: float = 1.0,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Hard routing with Gumbel noise forward, the softmax's gradient backward; used in training.

    logits (B, n, N), valid as in `hard_routing`. noise (B, n, N) is added to the logits; None draws Gumbel(0, 1),
    independently for each position, from generator. Returns one-hot (B, n, N) in logits' dtype.
    """
    working = torch.promote_types(logits.dtype, torch.float32)
    noise = gumbel_noise(logits, generator) if noise is None else noise
    noisy = (logits.to(working) + noise.to(working)) / tau
    soft, hard = soft_routing(noisy, valid), hard_routing(noisy.detach(), valid)
    return (hard + (soft - soft.detach())).to(logits.dtype)  # the bracket is exactly 0: one-hot forward


def shares_by_attention(logits: Sequence[Tensor]) -> Tensor:
    """Each identity's share (B, n, N) of every position, from the logits (B, heads, n, m) of its m tokens.

    For systems without a trained router. A head's share of an identity is the mean of exp(logit) over its tokens, so
    that more tokens (more photos) are no advantage, divided by the sum over identities; heads are averaged. One
    identity has the share 1, N equal ones 1/N, and the order does not matter. At least float32.
    """
    means = [_log_mean_exp(each.to(torch.promote_types(each.dtype, torch.float32))) for each in logits]
    return torch.stack(means, dim=-1).softmax(-1).mean(1)


def attention_shares(q: Tensor, people: Sequence[KeysValues], heads: int, num_zero: int = 0) -> Tensor:
    """Each person's share (B, n, N) of every position, by how much the position attends to their tokens; float32.

    q (B, n, C); people holds each one's keys and values (b, m, C) with num_zero zero tokens, which do not count. A rule
    of our own for people without masks (docs/pulid.md, 3.5); `hard_routing` makes it one person for each position.
    """
    working = torch.promote_types(q.dtype, torch.float32)
    split_q = split_heads(q.to(working), heads)
    logits = []
    for kv in people:
        keys = split_heads(kv.keys[:, : kv.keys.shape[1] - num_zero].to(q.device, working), heads)
        logits.append((split_q @ keys.transpose(-1, -2)) * split_q.shape[-1] ** -0.5)
    return shares_by_attention(logits)


def gumbel_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent Gumbel(0, 1) samples of like's shape and device, float32."""
    exponential = torch.empty(like.shape, device=like.device, dtype=torch.float32).exponential_(generator=generator)
    return gumbel_of_exponential(exponential)


def gumbel_of_exponential(exponential: Tensor) -> Tensor:
    """Gumbel(0, 1) samples from samples of the exponential distribution with mean 1."""
    return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()


def _log_mean_exp(logits: Tensor) -> Tensor:
    return logits.logsumexp(-1) - math.log(logits.shape[-1])


def _mask_padding(logits: Tensor, valid: Tensor | None) -> Tensor:
    # The lowest finite number, not -inf: a row of padding only would otherwise be NaN in the softmax.
    return logits if valid is None else logits.masked_fill(~valid[:, None, :], torch.finfo(logits.dtype).min)


def _zero_padding(weights: Tensor, valid: Tensor | None) -> Tensor:
    return weights if valid is None else weights * valid[:, None, :].to(weights.dtype)
