"""Reading a stretch of a shard: no shared file position, so that forked workers may use the same open files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MOST_OPEN = 128  # a process may often have 1024 files open, and tensors from workers take some


class ShardReader:
    """Reads bytes of the shards of a set; keeps the files used last open. Can be pickled and can be forked."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._open: OrderedDict[int, int] = OrderedDict()  # shard number -> file descriptor

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Raises ValueError naming the shard when it is missing or shorter than that."""
        try:
            content = _pread(self._descriptor(shard), length, offset)
        except OSError as error:
            raise ValueError(f"the shard {self._paths[shard]} cannot be read: {error}") from error
        if len(content) != length:
            raise ValueError(f"the shard {self._paths[shard]} is cut short: copy or make it again")
        return content

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= _MOST_OPEN:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        self._open[shard] = os.open(self._paths[shard], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows, where nothing forks
    return os.read(descriptor, length)
