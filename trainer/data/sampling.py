"""Which pictures a step sees: a pure function of the seed and the step, whatever the processes, workers and restarts.

Pictures of one size (and, if asked for, of one number of faces) form a group. In every epoch each group is shuffled and
cut into whole global batches; what is left over, fewer than a batch, sits out that epoch, another part each time. The
batches of all groups are shuffled together. So a picture occurs at most once in a batch and in an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class StepSampler:
    """The pictures of every step.

    groups: picture numbers, each (n,) int64; those with fewer than `batch` pictures are never used. batch: pictures of
    a step over all processes. Raises ValueError when no group fills a batch.
    """

    def __init__(self, groups: Sequence[np.ndarray], batch: int, seed: int) -> None:
        self.batch = batch
        self._groups = [group for group in groups if len(group) >= batch]
        self._seed = seed
        self._epoch: tuple[int, np.ndarray] | None = None
        if not self._groups:
            most = max((len(group) for group in groups), default=0)
            raise ValueError(f"a step takes {batch} pictures, but no group of one size has more than {most}")
        self.steps_per_epoch = sum(len(group) // batch for group in self._groups)

    def pictures(self, step: int) -> np.ndarray:
        """Picture numbers (batch,) int64 of a step from 0."""
        epoch, row = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._arrange(epoch))
        return self._epoch[1][row]

    def share(self, step: int, rank: int, world: int) -> tuple[np.ndarray, np.ndarray]:
        """What one of `world` processes takes of a step: picture numbers and global sample positions, int64.

        The position of sample i of a step is step * batch + i; a rank takes equally many that follow one another.
        """
        count = self.batch // world
        own = slice(rank * count, (rank + 1) * count)
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        return self.pictures(step)[own], positions[own]

    def _arrange(self, epoch: int) -> np.ndarray:
        """All batches of an epoch (steps_per_epoch, batch)."""
        batches = []
        for number, group in enumerate(self._groups):
            order = shuffled(len(group), self._seed, "pictures", epoch, number)
            whole = len(group) // self.batch * self.batch
            batches.append(group[order[:whole]].reshape(-1, self.batch))
        every = np.concatenate(batches)
        return every[shuffled(len(every), self._seed, "batches", epoch)]


def shuffled(count: int, *seed: int | str) -> np.ndarray:
    """The numbers 0 to count - 1 in an order that the seed fixes, for all versions of numpy.

    Sorting raw random bits is used since numpy fixes those for good, but not the order that its `permutation` gives.
    """
    return np.argsort(np.random.Philox(key=seed_bits(*seed)).random_raw(count), kind="stable")


def seed_bits(*seed: int | str) -> int:
    """64 bits from any numbers and words, without the overlaps that adding seeds would have."""
    text = "\n".join(map(str, seed)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
