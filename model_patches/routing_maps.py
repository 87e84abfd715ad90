"""Recording, while sampling, which identity each place was routed to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

NOBODY = 255


@dataclass(frozen=True)
class LayerWeights:
    """Identity weights of one layer: (B or 1, n, N) for a grid of size (h, w)."""

    weights: torch.Tensor
    size: tuple[int, int]


@dataclass
class RoutingRecord:
    """LIKENESS_ROUTING on the wire: routing maps of the last run of one patched model.

    The sampler fills it, so it is the one mutable value on a wire: a new run clears it first.

    Attributes:
        labels: one name for each identity.
        maps: model call -> layer number -> (B, h, w) uint8 index of the identity on the CPU, 255 where there is none;
            calls in the order of the run.
    """

    labels: tuple[str, ...]
    maps: list[dict[int, torch.Tensor]] = field(default_factory=list)

    def clear(self) -> None:
        """Forget the previous run."""
        self.maps.clear()

    def store(self, call: dict[int, LayerWeights]) -> None:
        """Keep one call's maps: all layers at once, since each copy from the device waits for it."""
        if not call:
            return
        batch = max(layer.weights.shape[0] for layer in call.values())
        joined = torch.cat([layer.weights.expand(batch, -1, -1) for layer in call.values()], dim=1)
        best, index = joined.max(-1)
        packed = index.to(torch.uint8).masked_fill(best <= 0, NOBODY).cpu()
        parts = packed.split([layer.weights.shape[1] for layer in call.values()], dim=1)
        self.maps.append(
            {number: part.unflatten(1, layer.size) for (number, layer), part in zip(call.items(), parts, strict=True)}
        )
