"""A set while it is made: whole shards collect in `<out>/unfinished`, each with a note, until the set is complete.

Killed at any moment, the same command goes on behind the last whole shard. A shard counts once its note is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .index import (
    INDEX_FILE,
    UNFINISHED,
    CacheInfo,
    SetIndex,
    ShardIndex,
    index_shard,
    read_index,
    shard_from_json,
    shard_to_json,
    write_atomically,
    write_index,
)
from .picture_set import PictureSet
from .samples import StoredSample
from .shards import shard_name, write_shard

REFUSED_FILE = "refused.jsonl"

_PLAN = "plan.json"
_FINISHED = ".finished"  # the unfinished part of a finished set, while it is deleted


@dataclass(frozen=True)
class Part:
    """One whole shard of an unfinished set and what its maker noted about it."""

    shard: ShardIndex
    note: Mapping[str, Any]


class UnfinishedSet:
    """The set in `out` that a plan describes, begun now or gone on with.

    plan: all that decides what the set will hold, as JSON values. Raises ValueError when the folder holds a finished
    set of another plan, or an unfinished one, saying what differs; `is_finished` when there is nothing left to do.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any]) -> None:
        self.out = out
        self.folder = out / UNFINISHED
        self._plan = json.loads(json.dumps(plan))
        _tidy(out)
        self.is_finished = not self.folder.exists() and (out / INDEX_FILE).exists()
        self.parts: list[Part] = []
        if self.is_finished:
            self._check_plan(read_index(out).prepared, "a finished set")
        elif (self.folder / _PLAN).exists():
            self._check_plan(json.loads((self.folder / _PLAN).read_bytes()), "an unfinished set")
            self.parts = self._read_parts()
        elif out.exists() and {path.name for path in out.iterdir()} - {UNFINISHED, REFUSED_FILE}:
            raise ValueError(f"the folder {out} is not empty; give a new one")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / _PLAN, json.dumps(self._plan, indent=1).encode())

    @property
    def num_pictures(self) -> int:
        return sum(len(part.shard.entries) for part in self.parts)

    def add(self, samples: Sequence[StoredSample], note: Mapping[str, Any]) -> None:
        """Write the next shard and its note; without samples the note alone.

        Raises ValueError when the disk is full, saying what is kept.
        """
        name = shard_name(len(self.parts))
        path = self.folder / name
        try:
            shard = write_shard(path, samples) if samples else ShardIndex(name, 0, ())
            content = json.dumps({"shard": shard_to_json(shard), "note": note}, ensure_ascii=False)
            write_atomically(path.with_suffix(".json"), content.encode())
        except OSError as error:
            raise self._not_written(path, error) from error
        self.parts.append(Part(shard, json.loads(content)["note"]))

    def pictures(self) -> PictureSet:
        """What has been written so far, for reading."""
        shards = tuple(part.shard for part in self.parts if part.shard.entries)
        return PictureSet(self.folder, SetIndex(shards), in_shards=True)

    def finish(
        self,
        cache: CacheInfo | None = None,
        rewrite: Callable[[ShardIndex], Sequence[StoredSample] | None] | None = None,
    ) -> None:
        """Move the shards to their place and write `dataset.json`.

        rewrite: the samples that take the place of a shard's own, or None to leave it; it may read from all shards.
        """
        whole = [part.shard for part in self.parts if part.shard.entries]
        finished = []
        try:
            for number, shard in enumerate(whole):
                finished.append(self._rewritten(shard, self.out / shard_name(number), rewrite))
            for number, shard in enumerate(whole):
                if finished[number] is None:
                    finished[number] = _moved(self.folder / shard.name, self.out / shard_name(number), shard)
            shards = tuple(shard for shard in finished if shard is not None)
            write_index(self.out, SetIndex(shards, self._plan, cache))
        except OSError as error:
            raise self._not_written(self.out, error) from error
        os.replace(self.folder, self.out / _FINISHED)  # at once, so that a kill leaves the set finished or not
        shutil.rmtree(self.out / _FINISHED)

    def discard(self) -> None:
        """Take back the beginning of a set that will not be one."""
        shutil.rmtree(self.folder)

    def _rewritten(
        self, shard: ShardIndex, path: Path, rewrite: Callable[[ShardIndex], Sequence[StoredSample] | None] | None
    ) -> ShardIndex | None:
        """The shard's new edition at its place, None when it has none. One of an earlier, killed run is kept."""
        if rewrite is None:
            return None
        if path.exists() and (self.folder / shard.name).exists():
            return index_shard(path)
        samples = rewrite(shard)
        return None if samples is None else write_shard(path, samples)

    def _read_parts(self) -> list[Part]:
        parts: list[Part] = []
        while (path := self.folder / shard_name(len(parts)).replace(".tar", ".json")).exists():
            content = json.loads(path.read_bytes())
            parts.append(Part(shard_from_json(content["shard"]), content["note"]))
        return parts

    def _check_plan(self, found: Mapping[str, Any], what: str) -> None:
        differing = sorted(
            key for key in {*found, *self._plan} if found.get(key, _ABSENT) != self._plan.get(key, _ABSENT)
        )
        if differing:
            shown = ", ".join(
                f"{key} ({_short(found.get(key))}, now {_short(self._plan.get(key))})" for key in differing
            )
            raise ValueError(
                f"{self.out} holds {what} that was made otherwise: {shown}. "
                "Repeat the command as it was, or give another folder"
            )

    def _not_written(self, path: Path, error: OSError) -> ValueError:
        return ValueError(
            f"writing {path} failed: {error.strerror or error}. {len(self.parts)} whole shards with "
            f"{self.num_pictures} pictures are kept; make room and run the same command again, it goes on from there"
        )


def _tidy(out: Path) -> None:
    """Delete what a killed run has left behind half written or half deleted."""
    shutil.rmtree(out / _FINISHED, ignore_errors=True)
    for temporary in [*out.glob(".*.tmp"), *(out / UNFINISHED).glob(".*.tmp")]:
        temporary.unlink()


_ABSENT = object()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _moved(source: Path, target: Path, shard: ShardIndex) -> ShardIndex:
    if source.exists():  # else an earlier, killed run has moved it
        os.replace(source, target)
    return ShardIndex(target.name, shard.length, shard.entries)
