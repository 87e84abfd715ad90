"""From recorded routing maps to one map of who was drawn where.

Letters: B pictures, h, w grid of a layer, H, W grid of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..model_patches.routing_maps import NOBODY, RoutingRecord

VIEWS = ("average", "per step", "per layer")


@dataclass(frozen=True, eq=False)
class RoutingView:
    """One map to be shown: winners (B, H, W) uint8, 255 for nobody, and what it is a view of."""

    winners: torch.Tensor
    caption: str


def majority(maps: Sequence[torch.Tensor], size: tuple[int, int], num_identities: int) -> torch.Tensor:
    """The identity that most maps give to a place, each map counting once; ties go to the lower number.

    maps: each (B, h, w) uint8, 255 for nobody, enlarged to `size` by the nearest place. Returns (B, H, W) uint8.
    """
    enlarged = [_nearest(routed, size) for routed in maps]
    votes = torch.zeros(num_identities + 1, *enlarged[0].shape, dtype=torch.int32)
    for routed in enlarged:
        choice = torch.where(routed == NOBODY, num_identities, routed).long()
        votes.scatter_add_(0, choice[None], torch.ones_like(choice, dtype=torch.int32)[None])
    winners = votes.argmax(0)
    return torch.where(winners == num_identities, NOBODY, winners).to(torch.uint8)


def routing_views(record: RoutingRecord, view: str) -> list[RoutingView]:
    """All of a run as one map, or a map for each step or layer, on the finest grid that was recorded.

    Raises:
        ValueError: the record is empty.
    """
    calls = record.maps
    if not calls:
        raise ValueError(_nothing_recorded(record))
    count = len(record.labels)
    every = [routed for call in calls for routed in call.values()]
    finest = max(every, key=lambda routed: routed[0].numel())
    size = (finest.shape[-2], finest.shape[-1])
    if view == "per step":
        return [
            RoutingView(majority(list(call.values()), size, count), f"step {number} of {len(calls)}")
            for number, call in enumerate(calls, 1)
        ]
    if view == "per layer":
        layers = sorted({number for call in calls for number in call})
        return [
            RoutingView(majority([call[layer] for call in calls if layer in call], size, count), f"layer {layer}")
            for layer in layers
        ]
    return [RoutingView(majority(every, size, count), "")]


def _nothing_recorded(record: RoutingRecord) -> str:
    if len(record.labels) < 2:
        return (
            "Routing Maps: only one identity is applied, so there is nothing to share out. Connect two or more to "
            "the Apply node."
        )
    return (
        "Routing Maps: nothing was recorded. Connect the routing of the Apply node whose model was sampled, and to "
        "image the decoded result of that sampler; id_scale must be above 0, the window must hold a step, and the "
        "identities must differ (the same photo twice is one person)."
    )


def _nearest(routed: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(routed[:, None].float(), size, mode="nearest")[:, 0].to(torch.uint8)
