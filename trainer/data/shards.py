"""Writing samples into webdataset shards: plain tar files in which the files of one sample stand together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from .index import ShardIndex, index_shard
from .samples import StoredSample

SAMPLES_PER_SHARD = 1000


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def write_shard(path: Path, samples: Sequence[StoredSample]) -> ShardIndex:
    """Write one shard, whole or not at all, and return its index.

    Equal samples give equal bytes. Raises OSError when the disk is full, leaving nothing behind.
    """
    from webdataset import TarWriter

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            writer = TarWriter(_Sink(file), encoder=False, user="", group="", mtime=0)
            for sample in samples:
                writer.write({"__key__": sample.key, **sample.files()})
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return index_shard(path)


class _Sink:
    """Where a tar stream writes to. It writes its rest when it is deleted, also after a failure: that goes nowhere."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, content: bytes) -> int:
        return len(content) if self._file.closed else self._file.write(content)
