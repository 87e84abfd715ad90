"""Low-rank additions to the projections of an attention layer; UniPortrait's have no alpha and no bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Operations


class LoRAPair(nn.Module):
    """x -> (x·Dᵀ)·Uᵀ with D (rank, in) and U (out, rank)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.down = operations.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.up = operations.Linear(rank, out_features, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.up(self.down(x))

    def delta(self) -> Tensor:
        """The weight (out, in) that merging adds: W + s·delta gives the same as W·x + s·forward(x)."""
        return self.up.weight @ self.down.weight


class AttentionLoRA(nn.Module):
    """One LoRA pair on each projection of an attention layer: to_q, to_k, to_v, to_out."""

    def __init__(
        self,
        hidden: int,
        context: int,
        rank: int,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"operations": operations, "device": device, "dtype": dtype}
        self.to_q = LoRAPair(hidden, hidden, rank, **place)
        self.to_k = LoRAPair(context, hidden, rank, **place)
        self.to_v = LoRAPair(context, hidden, rank, **place)
        self.to_out = LoRAPair(hidden, hidden, rank, **place)


def choose_lora(single_scale: float, multi_scale: float) -> tuple[str | None, float]:
    """Which of the two sets is used: ("single" | "multi" | None, scale). Single wins; a scale of 0 or less is off.

    The sets are never added: the one for several identities is the one for a single identity, trained further.
    """
    if single_scale > 0:
        return "single", single_scale
    if multi_scale > 0:
        return "multi", multi_scale
    return None, 0.0
