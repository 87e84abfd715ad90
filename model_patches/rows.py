"""What the rows of a batch get: keys and values of their guidance half, and each person's weight at each place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..adapters.projection import KeysValues
from .region_masks import RegionMasks
from .routing_maps import LayerWeights
from .sampling_run import ModelCall, Rows


def kv_of_rows(call: ModelCall, key: Any, halves: Mapping[bool, KeysValues]) -> KeysValues:
    """Each batch row's own keys and values, (B, ...) from one of (1, ...) for each guidance half in the batch.

    So one attention call serves both halves, under False the positive one and under True the negative one. Arranged
    once per run under `key`, which names the layer and the kind of tokens.
    """

    def arrange() -> KeysValues:
        blocks = [(halves[rows.unconditional], rows.stop - rows.start) for rows in call.rows]
        keys, values = (
            torch.cat([kv[part].expand(count, *kv[part].shape[1:]) for kv, count in blocks]) for part in (0, 1)
        )
        return KeysValues(keys, values)

    device = next(iter(halves.values())).keys.device
    return call.run.cached((key, call.rows, device), arrange)


def weights_of_rows(
    call: ModelCall,
    rows: Rows,
    regions: RegionMasks,
    number: int,
    size: tuple[int, int],
    place: torch.Tensor,
    as_one: bool,
    route: Callable[[list[int]], torch.Tensor],
) -> torch.Tensor | None:
    """Weights (1 or rows, n, N) of the people in layer `number`, whose grid is `size`, in place's device and dtype.

    as_one says that these rows have one block of tokens, because there is one person or because all have equal tokens:
    the weights are (1, n, 1) then, or None where the block counts everywhere. route(indices) decides among the people
    whom no mask places, (rows, n, len(indices)). What the positive prompt's rows get is kept for the routing maps.
    """
    key = (size, rows.area, place.device, place.dtype)
    if as_one:
        return call.run.cached(("coverage", *key), lambda: regions.coverage(size, call.latent_size, rows.area, place))
    if regions.shares_places:
        weights = regions.weights(size, call.latent_size, rows.area, place, route)
    else:  # nothing depends on the step
        weights = call.run.cached(
            ("regions", *key), lambda: regions.weights(size, call.latent_size, rows.area, place, route)
        )
    if not rows.unconditional and rows.area is None:
        call.routing.setdefault(number, LayerWeights(weights, size))
    return weights
