"""Whole attention layers with the systems' terms, for hosts that own the projections (the trainer, the tests).

ComfyUI gives its patches q, k, v and takes the result before to_out; its host therefore uses the same parts directly:
`identity_attention`, `pulid_attention`, `shared_self_attention`, `without_reference_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .attention import AttentionFunction, torch_attention
from .lora import AttentionLoRA, LoRAPair
from .projection import KeysValues, identity_attention
from .sharing import Sharing, shared_self_attention, without_reference_rows


class Projections(Protocol):
    """The frozen layer: diffusers' Attention, or anything with the same four attributes."""

    heads: int
    to_q: Callable[[Tensor], Tensor]
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]
    to_out: Sequence[Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class ScaledLoRA:
    """A LoRA set of this layer and its factor."""

    lora: AttentionLoRA
    scale: float = 1.0


class Term(Protocol):
    """Something that is added to a cross-attention layer's result, times its scale."""

    @property
    def scale(self) -> float:
        """The factor; 0 or less switches the term off."""

    def added(self, q: Tensor, text_result: Tensor, heads: int, attention: AttentionFunction) -> Tensor:
        """The term (B, n, C), before its scale, from the queries and the attention to the text, each (B, n, C)."""


@dataclass(frozen=True)
class TokenTerm:
    """Identity or image-prompt tokens of this layer: keys and values, weights for each position, and a factor."""

    kv: KeysValues
    scale: float
    weights: Tensor | None = None  # (B or 1, n, N); None: one block of tokens that counts everywhere
    attention: AttentionFunction | None = None  # None: the layer's; another one may mask tokens

    def added(self, q: Tensor, text_result: Tensor, heads: int, attention: AttentionFunction) -> Tensor:
        """Attention to the tokens on the same queries (UniPortrait, eq. 4)."""
        return identity_attention(q, self.kv, self.weights, heads, self.attention or attention)


def cross_attention_layer(
    layer: Projections,
    x: Tensor,
    text: Tensor,
    lora: ScaledLoRA | None = None,
    identity: Term | None = None,
    image_prompt: Term | None = None,
    reference_chunks: int | None = None,
    attention: AttentionFunction = torch_attention,
) -> Tensor:
    """Cross-attention to the text plus identity and image-prompt terms on the same queries.

    x (B, n, C) is the layer's normalised input, text (B, t, D). The LoRA acts on q, on the text's k and v, and on the
    output. A term with a scale of 0 or less is off. reference_chunks, while attention is shared, is the number of
    chunks whose row 0 is the reference and gets no terms. Returns (B, n, C), after to_out.
    """
    q, k, v = _project(layer, x, text, lora)
    out = text_result = attention(q, k, v, layer.heads)
    for term in (image_prompt, identity):
        if term is None or term.scale <= 0:
            continue
        added = term.added(q, text_result, layer.heads, attention)
        if reference_chunks is not None:
            added = without_reference_rows(added, reference_chunks)
        out = out + term.scale * added
    return _project_out(layer, out, lora)


def self_attention_layer(
    layer: Projections,
    x: Tensor,
    lora: ScaledLoRA | None = None,
    sharing: Sharing | None = None,
    reference_chunks: int = 2,
    attention: AttentionFunction = torch_attention,
) -> Tensor:
    """Self-attention of x (B, n, C), with a LoRA and, with `sharing`, the reference rows' tokens; (B, n, C)."""
    q, k, v = _project(layer, x, x, lora)
    if sharing is None:
        out = attention(q, k, v, layer.heads)
    else:
        out = shared_self_attention(q, k, v, layer.heads, sharing, reference_chunks)
    return _project_out(layer, out, lora)


def _project(layer: Projections, x: Tensor, context: Tensor, lora: ScaledLoRA | None) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(context)
    if lora is None:
        return q, k, v
    pairs = lora.lora
    return (
        _add_lora(q, pairs.to_q, x, lora.scale),
        _add_lora(k, pairs.to_k, context, lora.scale),
        _add_lora(v, pairs.to_v, context, lora.scale),
    )


def _project_out(layer: Projections, x: Tensor, lora: ScaledLoRA | None) -> Tensor:
    linear, *rest = layer.to_out  # diffusers keeps a dropout behind the linear layer
    out = linear(x)
    if lora is not None:
        out = _add_lora(out, lora.lora.to_out, x, lora.scale)
    for module in rest:
        out = module(out)
    return out


def _add_lora(projected: Tensor, pair: LoRAPair, x: Tensor, scale: float) -> Tensor:
    return projected + scale * pair(x)
