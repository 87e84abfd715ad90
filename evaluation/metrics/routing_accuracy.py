"""Routing accuracy: how many places inside a person's face go to that person's tokens.

Letters: N identities, h, w grid of a layer, H, W grid of the masks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

NOBODY = 255

DEFINITION = (
    "share of the positions inside a mask that are routed to the mask's identity; masks are averaged down to each "
    "layer's grid, a position belongs to the highest of them if that is at least 0.5. Per layer, and their mean"
)


def owners(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which identity owns each position of a grid (h, w) int64, 255 for nobody, from masks (N, H, W) in [0, 1].

    Masks are enlarged by the nearest position where the grid is finer.
    """
    masks = torch.from_numpy(np.ascontiguousarray(masks, np.float32))[None]
    if size[0] <= masks.shape[2] and size[1] <= masks.shape[3]:
        resized = F.adaptive_avg_pool2d(masks, size)[0]
    else:
        resized = F.interpolate(masks, size, mode="nearest-exact")[0]
    share, owner = resized.max(dim=0)
    return torch.where(share >= 0.5, owner, NOBODY).numpy()


def routed_identities(routing: np.ndarray) -> np.ndarray:
    """The identity (h, w) of each position: integer maps (h, w) as they are, weights (N, h, w) by their largest.

    Raises ValueError for another shape or kind of map.
    """
    if routing.ndim == 2 and np.issubdtype(routing.dtype, np.integer):
        return routing.astype(np.int64)
    if routing.ndim == 3 and np.issubdtype(routing.dtype, np.floating):
        return np.where(routing.max(axis=0) > 0, routing.argmax(axis=0), NOBODY)
    raise ValueError(
        f"a routing map must be (h, w) integers or (identities, h, w) weights, got {routing.shape} {routing.dtype}"
    )


def routing_accuracy(routing: np.ndarray, masks: np.ndarray) -> float | None:
    """Accuracy in 0 to 1 of one layer's map against masks (N, H, W); None where no position lies inside a mask.

    Raises ValueError for maps of more identities than there are masks.
    """
    routed = routed_identities(routing)
    highest = max((int(number) for number in np.unique(routed) if number != NOBODY), default=0)
    count = max(highest + 1, len(routing) if routing.ndim == 3 else 0)
    if count > len(masks):
        raise ValueError(f"the routing maps are of {count} identities, but there are masks of {len(masks)}")
    owner = owners(masks, routed.shape)
    inside = owner != NOBODY
    if not inside.any():
        return None
    return float((routed[inside] == owner[inside]).mean())


def box_masks(boxes: list[tuple[float, float, float, float] | None], height: int, width: int) -> np.ndarray:
    """Masks (N, H, W) bool of boxes in pixels; None makes an empty one."""
    masks = np.zeros((len(boxes), height, width), bool)
    for mask, box in zip(masks, boxes, strict=True):
        if box is not None:
            x1, y1, x2, y2 = (max(0, round(side)) for side in box)
            mask[y1:y2, x1:x2] = True
    return masks
