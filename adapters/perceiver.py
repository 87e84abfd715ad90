"""The parts that the identity resamplers are made of: attention of learned queries to features, and feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint, CheckpointError

HEADS_KEY = "likeness.heads"  # metadata of files whose heads have another width than the released ones
MASKED_LOGIT = -100.0  # what the published code adds to the logits of a masked feature token


class PerceiverProjections(nn.Module):
    """The weights of one attention of latents to features under their released names; no projection has a bias.

    norm1 and to_kv take the features, as wide as the latents unless features_dim is given; norm2 and to_q the latents.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int = 64,
        features_dim: int | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        features_dim = dim if features_dim is None else features_dim
        self.heads = heads
        inner = heads * dim_head
        self.norm1 = operations.LayerNorm(features_dim, **place)
        self.norm2 = operations.LayerNorm(dim, **place)
        self.to_q = operations.Linear(dim, inner, bias=False, **place)
        self.to_kv = operations.Linear(features_dim, 2 * inner, bias=False, **place)
        self.to_out = operations.Linear(inner, dim, bias=False, **place)


class PerceiverAttention(PerceiverProjections):
    """Latents attend to [features, latents]; both are normalised first."""

    def forward(self, features: Tensor, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """features (b, n, dim), latents (b, l, dim) -> (b, l, dim).

        mask (b, n, 1): 1 keeps a feature token, 0 drops it; latents always attend to each other.
        """
        features, latents = self.norm1(features), self.norm2(latents)
        tokens = torch.cat([features, latents], dim=1)
        queries = self.to_q(latents).unflatten(-1, (self.heads, -1))  # (b, l, heads, d)
        # The weights go to the queries and not to the tokens, q·(Wk t) = (Wkᵀ q)·t: a third of the work, as there are
        # 16 queries for 64 channels of a head. Read without the layer's forward; a host may keep them elsewhere.
        to_keys, to_values = self.to_kv.weight.to(queries).unflatten(0, (2, self.heads, -1))  # (heads, d, dim)
        scale = queries.shape[-1] ** -0.25  # on both sides: in half precision q·k alone could overflow
        queries = torch.einsum("blhd,hdc->bhlc", queries * scale, to_keys * scale)
        logits = queries.flatten(1, 2) @ tokens.transpose(1, 2)  # (b, heads·l, n + l)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask is not None:
            bias = logits.new_zeros(mask.shape[0], 1, logits.shape[-1])
            bias[..., : mask.shape[1]] = (1.0 - mask.transpose(1, 2).to(logits)) * MASKED_LOGIT
            logits = logits + bias
        gathered = (logits.softmax(-1).to(tokens.dtype) @ tokens).unflatten(1, (self.heads, -1))
        return self.to_out(torch.einsum("bhlc,hdc->blhd", gathered, to_values).flatten(2))


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


def learned_queries(
    num_queries: int, dim: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Parameter:
    """The latents (1, num_queries, dim) that a resampler starts from."""
    latents = nn.Parameter(torch.empty(1, num_queries, dim, device=device, dtype=dtype))
    if not latents.is_meta:  # there is nothing to fill, and torch would import its compiler for it: seconds
        nn.init.normal_(latents, std=dim**-0.5)
    return latents


def num_heads(file: Checkpoint, inner: int, metadata_key: str = HEADS_KEY, dim_head: int = 64) -> int:
    """The attention heads of a file whose heads are `inner` wide together: `dim_head` each unless its metadata differ.

    Raises CheckpointError if the number cannot be told.
    """
    stated = file.metadata.get(metadata_key)
    if stated is None:
        if inner % dim_head:
            raise CheckpointError(
                f"{file.name}: the number of attention heads cannot be told from a width of {inner}, which is no "
                f"multiple of {dim_head}. The file needs the metadata entry {metadata_key}."
            )
        return inner // dim_head
    if not stated.isdecimal() or int(stated) == 0 or inner % int(stated):
        raise CheckpointError(f"{file.name}: its metadata say {stated} heads, which do not divide a width of {inner}.")
    return int(stated)
