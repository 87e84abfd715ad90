"""Recording, while sampling, which identity each place was routed to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


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

    def store(self, call: dict[int, torch.Tensor]) -> None:
        """Keep one call's maps; a single copy from the device, since each copy waits for it."""
        if not call:
            return
        packed = torch.cat([layer.flatten() for layer in call.values()]).cpu()
        sizes = [layer.numel() for layer in call.values()]
        parts = packed.split(sizes)
        self.maps.append({number: part.view_as(call[number]) for number, part in zip(call, parts, strict=True)})


NOBODY = 255


def winner(weights: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The identity with the largest weight at each place; weights (B, n, N) -> (B, h, w) uint8, 255 for nobody."""
    best, index = weights.max(-1)
    return index.to(torch.uint8).masked_fill(best <= 0, NOBODY).unflatten(1, size)
