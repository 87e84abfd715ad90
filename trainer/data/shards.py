"""Writing samples into webdataset shards: plain tar files in which the files of one sample stand together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from .index import INDEX_FILE, CacheInfo, SetIndex, ShardIndex, index_shard, write_index
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


class SetWriter:
    """Writes a whole set: `add` samples in order and leave the `with` block; then the folder opens with `open_dataset`.

    folder: new or empty. prepared: how the set was made, kept in `dataset.json`. When the block is left by an exception
    there is no `dataset.json` and the set does not count as complete.
    Raises ValueError for a folder that holds a set already.
    """

    def __init__(
        self, folder: Path, prepared: Mapping[str, Any] | None = None, samples_per_shard: int = SAMPLES_PER_SHARD,
        cache: CacheInfo | None = None,
    ) -> None:  # fmt: skip
        if (folder / INDEX_FILE).exists() or any(folder.glob("*.tar")):
            raise ValueError(f"{folder} holds training pictures already; give a new folder or delete what is there")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._prepared = dict(prepared or {})
        self._samples_per_shard = samples_per_shard
        self._cache = cache
        self._waiting: list[StoredSample] = []
        self._shards: list[ShardIndex] = []

    def add(self, sample: StoredSample) -> None:
        """Append one sample; every `samples_per_shard` samples a shard is written."""
        self._waiting.append(sample)
        if len(self._waiting) == self._samples_per_shard:
            self._flush()

    def close(self) -> None:
        """Write what is left and `dataset.json`."""
        self._flush()
        write_index(self._folder, SetIndex(tuple(self._shards), self._prepared, self._cache))

    def _flush(self) -> None:
        if self._waiting:
            path = self._folder / shard_name(len(self._shards))
            self._shards.append(write_shard(path, self._waiting))
            self._waiting.clear()

    def __enter__(self) -> SetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
