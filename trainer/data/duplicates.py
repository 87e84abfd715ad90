"""Pictures that show the same twice: re-encoded, resized or slightly changed copies, found by a difference hash."""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDE = 16
NUM_BITS = _SIDE * _SIDE


def difference_hash(picture: np.ndarray) -> int:
    """256 bits of a picture (H, W, 3) uint8: whether it gets brighter from each of 16 x 17 areas to the next."""
    small = Image.fromarray(picture).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, np.int16)
    return int.from_bytes(np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes(), "big")


class NearDuplicates:
    """The hashes seen so far, and whether a new one differs from any of them in at most `distance` bits.

    The bits are cut into distance + 1 bands: hashes that close agree in at least one band, so only those that share a
    band are compared.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        edges = [NUM_BITS * number // (distance + 1) for number in range(distance + 2)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:], strict=False)]
        self._seen: dict[tuple[int, int], list[tuple[int, str]]] = {}

    def find(self, value: int) -> str | None:
        """The name of a near-duplicate seen before, or None."""
        for number, (shift, mask) in enumerate(self._bands):
            for other, name in self._seen.get((number, value >> shift & mask), ()):
                if (value ^ other).bit_count() <= self._distance:
                    return name
        return None

    def add(self, value: int, name: str) -> None:
        for number, (shift, mask) in enumerate(self._bands):
            self._seen.setdefault((number, value >> shift & mask), []).append((value, name))
