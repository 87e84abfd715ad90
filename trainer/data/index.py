"""`dataset.json`: what a set holds and where in its shards every file lies, so that any picture can be read at once."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .records import Box, parse_record
from .samples import PICTURE_TYPES, RECORD_MEMBER, picture_size

INDEX_FILE = "dataset.json"
UNFINISHED = "unfinished"  # the folder in which `prepare` and `cache` collect shards until the set is complete

_FORMAT = "likeness training pictures"
_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One sample of a shard: size of the picture, boxes of its faces, and member name -> (offset, length) in bytes."""

    key: str
    size: tuple[int, int]  # width, height
    boxes: tuple[Box, ...]
    members: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ShardIndex:
    """One shard: file name, its length in bytes and its samples."""

    name: str
    length: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class CacheInfo:
    """What the cached tensors of a set were made with: sizes (width, height) and one fingerprint for each kind."""

    sizes: tuple[tuple[int, int], ...]
    latents: str | None
    features: str | None


@dataclass(frozen=True)
class SetIndex:
    """The content of `dataset.json`: shards, how the set was prepared, and its cache if it has one."""

    shards: tuple[ShardIndex, ...]
    prepared: Mapping[str, Any] = field(default_factory=dict)
    cache: CacheInfo | None = None


def write_index(folder: Path, index: SetIndex) -> None:
    """Write `dataset.json` whole or not at all."""
    counts = Counter(len(entry.boxes) for shard in index.shards for entry in shard.entries)
    cache = index.cache
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "pictures": counts.total(),
        "pictures by number of faces": {str(number): counts[number] for number in sorted(counts)},
        "prepared": dict(index.prepared),
        "cache": cache and {"sizes": cache.sizes, "latents": cache.latents, "features": cache.features},
        "shards": [shard_to_json(shard) for shard in index.shards],
    }
    write_atomically(folder / INDEX_FILE, json.dumps(content, ensure_ascii=False).encode("utf-8"))


def read_index(folder: Path) -> SetIndex:
    """Read `dataset.json`. Raises ValueError for a damaged file or one of another version."""
    path = folder / INDEX_FILE
    try:
        content = json.loads(path.read_bytes())
        found = (content["format"], content["version"])
        if found != (_FORMAT, _VERSION):
            raise ValueError(f"{path} is of the format {found}, this version reads {(_FORMAT, _VERSION)}")
        cache = content["cache"]
        return SetIndex(
            shards=tuple(shard_from_json(shard) for shard in content["shards"]),
            prepared=content["prepared"],
            cache=cache and CacheInfo(tuple((w, h) for w, h in cache["sizes"]), cache["latents"], cache["features"]),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it and the set is indexed anew") from error


def shard_to_json(shard: ShardIndex) -> dict[str, Any]:
    """A shard's index as plain JSON values."""
    samples = [
        [entry.key, entry.size, entry.boxes, {name: list(span) for name, span in entry.members.items()}]
        for entry in shard.entries
    ]
    return {"name": shard.name, "length": shard.length, "samples": samples}


def shard_from_json(content: Mapping[str, Any]) -> ShardIndex:
    """The inverse of `shard_to_json`; KeyError, TypeError or ValueError where the content is something else."""
    entries = tuple(
        Entry(
            key,
            (width, height),
            tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes),
            {name: (offset, length) for name, (offset, length) in members.items()},
        )
        for key, (width, height), boxes, members in content["samples"]
    )
    return ShardIndex(content["name"], content["length"], entries)


def index_shard(path: Path) -> ShardIndex:
    """Read the names and places of a shard's samples from the tar file itself.

    Raises ValueError naming the shard and the sample for a file that is no plain tar, a sample without picture or
    record, files of a sample that are not adjacent, and a record with faults.
    """
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    last = None
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                key, name = split_name(member.name)
                if key != last and key in spans:
                    raise ValueError(f"{path}: the files of the sample {key} do not stand together")
                last = key
                spans.setdefault(key, {})[name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged or no plain (uncompressed) tar file: {error}") from error
    length = path.stat().st_size
    if any(offset + size > length for members in spans.values() for offset, size in members.values()):
        raise ValueError(f"{path} is cut short: copy or make it again")
    with open(path, "rb") as file:

        def read(key: str, name: str) -> bytes:
            offset, size = spans[key][name]
            file.seek(offset)
            return file.read(size)

        entries = [make_entry(key, spans[key], partial(read, key), f"{path}: {key}") for key in spans]
    return ShardIndex(path.name, length, tuple(entries))


def make_entry(key: str, members: Mapping[str, tuple[int, int]], read: Callable[[str], bytes], where: str) -> Entry:
    """Index one sample by its record and its picture's header; `read(member)` gives their bytes."""
    if RECORD_MEMBER not in members:
        raise ValueError(f"{where}.{RECORD_MEMBER} is missing: every picture needs its record")
    picture = picture_member(members, where)
    record = parse_record(read(RECORD_MEMBER), f"{where}.{RECORD_MEMBER}")
    size = picture_size(read(picture), f"{where}.{picture}")
    return Entry(key, size, tuple(face.box for face in record.faces), dict(members))


def picture_member(members: Iterable[str], where: str) -> str:
    """The one member that is the picture. Raises ValueError when there is none or more than one."""
    found = [name for name in members if name in PICTURE_TYPES]
    if len(found) != 1:
        raise ValueError(
            f"{where}: expected one picture ({', '.join(PICTURE_TYPES)}), found {', '.join(found) or 'none'}"
        )
    return found[0]


def split_name(name: str) -> tuple[str, str]:
    """Key and member of a file name, as webdataset splits it: at the first dot after the folders."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, member = file.partition(".")
    return f"{folder}{slash}{stem}", member


def write_atomically(path: Path, content: bytes | Sequence[bytes]) -> None:
    """Write a file whole or not at all, also when the machine loses power."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in [content] if isinstance(content, bytes) else content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
