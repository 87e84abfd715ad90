"""PuLID's identity term in a cross-attention layer of SDXL (docs/pulid.md, 3; paper section 3.2 and its code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionFunction, split_heads, torch_attention
from .projection import KeysValues, sum_over_people, token_attention

FORMS = ("plain", "ortho", "ortho_v2")
GLOBAL_TOKENS = 5  # ortho_v2 counts so many tokens, whatever there are: a constant of the published code
FLOOR = 1e-12  # of a sum of squares: a channel of zeros has no direction to project on, and gave NaN


@dataclass(frozen=True)
class Injection:
    """How strongly and in which form identities are added.

    Attributes:
        form: "plain", "ortho" or "ortho_v2".
        num_zero: how many zero tokens share the attention with an identity's own; more are weaker, more editable.
        scale: factor of the whole term, "id_scale" in the published applications.
    """

    form: str = "plain"
    num_zero: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f'PuLID has the forms {", ".join(FORMS)}, not "{self.form}".')
        if self.num_zero < 0:
            raise ValueError(f"PuLID: num_zero is {self.num_zero}; it must be 0 or more.")


# The published applications' settings, and the neutral one of a common ComfyUI port.
PRESETS = {
    "fidelity": Injection("ortho_v2", 8, 0.8),
    "style": Injection("ortho", 16, 0.8),
    "neutral": Injection("plain", 0, 1.0),
    "v1.1": Injection("ortho_v2", 20, 0.8),
}


def pulid_attention(
    q: Tensor,
    text_result: Tensor,
    people: Sequence[KeysValues],
    weights: Tensor | None,
    heads: int,
    form: str,
    attention: AttentionFunction = torch_attention,
) -> Tensor:
    """What several people add to a cross-attention layer's result before to_out: (B, n, C) in q's dtype, unscaled.

    q and text_result (B, n, C), heads merged; people holds each one's keys and values (b, m, C) with their zero tokens,
    b = 1 or B, m may differ. weights (B or 1, n or 1, N) are not negative: masks, shares, strengths or their product;
    None is one person who counts everywhere. Weights count inside the sums of the ortho forms (docs/pulid.md, 3.4).
    """
    working = q.dtype if form == "plain" else torch.promote_types(q.dtype, torch.float32)
    text_result = text_result.to(working)

    def term(kv: KeysValues, weight: Tensor | None) -> Tensor:
        attended = token_attention(q, kv, heads, attention).to(working)
        weight = None if weight is None else weight.to(attended)
        if form != "plain":
            kept = global_share(q, kv.keys, heads) if form == "ortho_v2" else None
            attended = _without_text_direction(attended, text_result, weight, kept)
        return attended if weight is None else weight * attended

    return sum_over_people(term, people, weights).to(q.dtype)


def global_share(q: Tensor, keys: Tensor, heads: int) -> Tensor:
    """How much of the attention falls on the first five tokens, mean over the heads: (B, n, 1), at least float32.

    q (B, n, C), keys (b, m, C) with their zero tokens. The logits are not divided by √d, as published, so in half
    precision they could overflow.
    """
    working = torch.promote_types(q.dtype, torch.float32)
    split_q, split_keys = (split_heads(x.to(q.device, working), heads) for x in (q, keys))
    shares = (split_q @ split_keys.transpose(-1, -2)).softmax(-1)  # (B, heads, n, m)
    return shares[..., :GLOBAL_TOKENS].sum(-1).mean(1).unsqueeze(-1)


@dataclass(frozen=True)
class PuLIDTerm:
    """PuLID's identities in one layer, for `attention_layer.cross_attention_layer`; fields as in `pulid_attention`."""

    people: Sequence[KeysValues]
    form: str
    scale: float
    weights: Tensor | None = None

    def added(self, q: Tensor, text_result: Tensor, heads: int, attention: AttentionFunction) -> Tensor:
        """The term (B, n, C), before its scale."""
        return pulid_attention(q, text_result, self.people, self.weights, heads, self.form, attention)


def _without_text_direction(term: Tensor, text_result: Tensor, weight: Tensor | None, kept: Tensor | None) -> Tensor:
    """term (B, n, C) less its projection on text_result; `kept` (B, n, 1) is the part of the projection that stays."""
    measured = text_result if weight is None else weight * text_result
    along = (measured * term).sum(1, keepdim=True)  # over the positions: one number for each sample and channel
    coefficient = along / ((measured * text_result).sum(1, keepdim=True) + FLOOR)
    if kept is not None:
        coefficient = coefficient * (1.0 - kept.to(term))
    return torch.addcmul(term, coefficient, text_result, value=-1)
