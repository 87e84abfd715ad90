"""The parts that the identity resamplers are made of: attention of learned queries to features, and feed-forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint, CheckpointError

HEADS_KEY = "likeness.heads"  # metadata of files whose heads have another width than the released ones
MASKED_LOGIT = -100.0  # what the published code adds to the logits of a masked feature token


@dataclass(frozen=True)
class StackSizes:
    """The sizes of a stack of `PerceiverLayer`s."""

    dim: int
    depth: int
    heads: int
    dim_head: int = 64
    ff_mult: int = 4

    @classmethod
    def from_checkpoint(
        cls, file: Checkpoint, prefix: str, num_sources: int, heads_key: str | None = None
    ) -> StackSizes:
        """Read the sizes off the tensors under prefix, such as "id_adapter.layers.".

        heads_key: the metadata entry with the number of heads, `HEADS_KEY` if None; without it heads are 64 wide.
        Raises CheckpointError if a tensor is missing or the number of heads cannot be told.
        """
        inner, dim = file.shape(f"{prefix}0.0.to_q.weight", 2)
        heads = num_heads(file, inner, heads_key or HEADS_KEY)
        depth = len({key[len(prefix) :].split(".")[0] for key in file.tensors if key.startswith(prefix)})
        ff_mult = file.shape(f"{prefix}0.{num_sources}.1.weight", 2)[0] // dim
        return cls(dim, depth, heads, inner // heads, ff_mult)


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


def two_layers(
    in_features: int,
    hidden: int,
    out_features: int,
    operations: Operations = nn,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Linear, exact GELU, Linear, with biases: what vectors and features go through before a resampler reads them."""
    place = {"device": device, "dtype": dtype}
    first, second = operations.Linear(in_features, hidden, **place), operations.Linear(hidden, out_features, **place)
    return nn.Sequential(first, nn.GELU(), second)


class Source(NamedTuple):
    """Features that latents attend to: tokens (b, n, dim), a factor for what is gathered, a mask (b, n, 1) or None."""

    tokens: Tensor
    scale: float | Tensor = 1.0
    mask: Tensor | None = None


class PerceiverLayer(nn.ModuleList):
    """One layer of a resampler: attention to each source of features in turn, then feed-forward, all residual.

    Released files number the parts: "0" and so on for the sources, the last one is the feed-forward.
    """

    def __init__(
        self,
        sizes: StackSizes,
        num_sources: int,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = {"operations": operations, "device": device, "dtype": dtype}
        attentions = [PerceiverAttention(sizes.dim, sizes.heads, sizes.dim_head, **place) for _ in range(num_sources)]
        super().__init__([*attentions, feed_forward(sizes.dim, sizes.ff_mult, **place)])

    def forward(self, latents: Tensor, sources: Sequence[Source | None]) -> Tensor:
        """Latents (b, l, dim) after the layer; a source that is None is left out."""
        *attentions, feed = self
        for attend, source in zip(attentions, sources, strict=True):
            if source is not None:
                latents = latents + source.scale * attend(source.tokens, latents, source.mask)
        return latents + feed(latents)


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
