"""A set of training pictures on disk, opened for access to any of them: shards or a plain folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ...faces.alignment import align
from .cache_file import decode_cache
from .index import (
    INDEX_FILE,
    UNFINISHED,
    Entry,
    SetIndex,
    ShardIndex,
    index_shard,
    make_entry,
    picture_member,
    read_index,
    split_name,
    write_index,
)
from .reading import ShardReader
from .records import Box, PictureRecord, parse_record
from .samples import (
    CACHE_MEMBER,
    CROP_SIZE,
    MASK_MEMBER,
    RECORD_MEMBER,
    StoredSample,
    decode_labels,
    decode_picture,
    encode_png,
    face_member,
    other_member,
)

logger = logging.getLogger("likeness.trainer")


class PictureSet:
    """All pictures of a set by number. What the index knows (sizes, boxes, members) costs no reading.

    sizes: (n, 2) int32 width and height. num_faces: (n,) int32. cache: what cached tensors were made with, or None.
    prepared: how the set was made. Can be pickled; safe to use in forked workers.
    """

    def __init__(self, folder: Path, index: SetIndex, in_shards: bool) -> None:
        """in_shards: whether members lie in shards; else each is a file of its own below the folder."""
        entries = [entry for shard in index.shards for entry in shard.entries]
        self.path = folder
        self.prepared = index.prepared
        self.cache = index.cache
        self.keys = [entry.key for entry in entries]
        self.sizes = np.array([entry.size for entry in entries], np.int32).reshape(-1, 2)
        self.num_faces = np.array([len(entry.boxes) for entry in entries], np.int32)
        self._shard = np.repeat(np.arange(len(index.shards)), [len(shard.entries) for shard in index.shards])
        # Flat arrays, since half a million small Python objects in every worker would take gigabytes.
        self._first_face = np.concatenate([[0], np.cumsum(self.num_faces)])
        self._boxes = np.array([box for entry in entries for box in entry.boxes], np.float32).reshape(-1, 4)
        self._names = sorted({name for entry in entries for name in entry.members})
        number = {name: position for position, name in enumerate(self._names)}
        self._first_member = np.cumsum([0, *(len(entry.members) for entry in entries)])
        self._member = np.array([number[name] for entry in entries for name in entry.members], np.int32)
        self._span = np.array([span for entry in entries for span in entry.members.values()], np.int64).reshape(-1, 2)
        self._reader = ShardReader([folder / shard.name for shard in index.shards]) if in_shards else None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, sizes and places of everything in the set; two sets with the same one hold the same files."""
        state = hashlib.sha256("\n".join([*self.keys, *self._names]).encode())
        for array in (self.sizes, self._boxes, self._member, self._span):
            state.update(array.tobytes())
        return state.hexdigest()[:16]

    def boxes(self, number: int) -> list[Box]:
        """Boxes of the faces of a picture, in its pixels, largest face first."""
        rows = self._boxes[self._first_face[number] : self._first_face[number + 1]]
        return [(x1, y1, x2, y2) for x1, y1, x2, y2 in rows.tolist()]

    def members(self, number: int) -> dict[str, tuple[int, int]]:
        """Members of a sample by name: place and length in its shard."""
        rows = slice(self._first_member[number], self._first_member[number + 1])
        spans = self._span[rows].tolist()
        return {self._names[name]: (span[0], span[1]) for name, span in zip(self._member[rows], spans, strict=True)}

    def with_member(self, name: str) -> np.ndarray:
        """(n,) bool: which samples have a member of this name."""
        found = np.zeros(len(self), bool)
        if name in self._names:
            rows = np.nonzero(self._member == self._names.index(name))[0]
            found[np.searchsorted(self._first_member, rows, side="right") - 1] = True
        return found

    def sample(self, number: int) -> Sample:
        """One sample, of which nothing is read yet."""
        return Sample(self, number, self.members(number))

    def read(self, number: int, member: str, span: tuple[int, int]) -> bytes:
        """The bytes of one member. Raises ValueError naming the file when it cannot be read."""
        if self._reader is not None:
            return self._reader.read(int(self._shard[number]), *span)
        path = self.path / f"{self.keys[number]}.{member}"
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class Sample:
    """One sample of a set; each part is read from disk when it is asked for, and checked."""

    pictures: PictureSet
    number: int
    members: Mapping[str, tuple[int, int]]

    @property
    def key(self) -> str:
        return self.pictures.keys[self.number]

    @cached_property
    def record(self) -> PictureRecord:
        record = parse_record(self.read(RECORD_MEMBER), self.where(RECORD_MEMBER))
        if len(record.faces) != self.pictures.num_faces[self.number]:
            raise ValueError(f"{self.where(RECORD_MEMBER)} has changed since {INDEX_FILE} was written; delete that")
        return record

    @property
    def picture_member(self) -> str:
        return picture_member(self.members, self.where(""))

    @property
    def num_others(self) -> int:
        """How many crops of other photographs of the same person there are."""
        return sum(other_member(number) in self.members for number in range(len(self.members)))

    def picture(self) -> np.ndarray:
        """The picture (H, W, 3) uint8 RGB. Raises ValueError when it is damaged or not of the size indexed."""
        picture = decode_picture(self.read(self.picture_member), self.where(self.picture_member))
        width, height = self.pictures.sizes[self.number]
        if picture.shape[:2] != (height, width):
            raise ValueError(
                f"{self.where(self.picture_member)} is {picture.shape[1]} x {picture.shape[0]} pixels, "
                f"indexed as {width} x {height}; delete {INDEX_FILE} to index the set anew"
            )
        return picture

    def crop(self, face: int) -> np.ndarray:
        """The aligned crop (224, 224, 3) uint8 of a face; cut from the picture where no crop is stored."""
        if face_member(face) in self.members:
            return self._stored_crop(face_member(face))
        return align(self.picture(), self.record.faces[face].points, CROP_SIZE)

    def other_crop(self, number: int) -> np.ndarray:
        """The aligned crop (224, 224, 3) uint8 of another photograph of the person."""
        return self._stored_crop(other_member(number))

    def labels(self) -> np.ndarray | None:
        """The label map (H, W) uint8, or None where the sample has none."""
        if MASK_MEMBER not in self.members:
            return None
        labels = decode_labels(self.read(MASK_MEMBER), self.where(MASK_MEMBER))
        width, height = self.pictures.sizes[self.number]
        if labels.shape != (height, width):
            raise ValueError(f"{self.where(MASK_MEMBER)} has another size than its picture, {width} x {height}")
        return labels

    def cached(self) -> dict[str, np.ndarray]:
        """The cached tensors by name (see `cache_file`). Raises ValueError when there are none."""
        if CACHE_MEMBER not in self.members:
            raise ValueError(f"{self.where(CACHE_MEMBER)} is missing: make the cache again")
        return decode_cache(self.read(CACHE_MEMBER), self.where(CACHE_MEMBER))

    def stored(self, cache: bytes | None = None) -> StoredSample:
        """The sample as encoded files, to be written to another set; `cache` replaces its cached tensors."""
        faces = range(len(self.record.faces))
        return StoredSample(
            self.key,
            self.record,
            self.read(self.picture_member),
            self.picture_member,
            tuple(
                self.read(face_member(face)) if face_member(face) in self.members else encode_png(self.crop(face))
                for face in faces
            ),
            tuple(self.read(other_member(number)) for number in range(self.num_others)),
            self.read(MASK_MEMBER) if MASK_MEMBER in self.members else None,
            cache,
        )

    def read(self, member: str) -> bytes:
        """The bytes of a member as stored."""
        if member not in self.members:
            raise ValueError(f"{self.where(member)} is missing")
        return self.pictures.read(self.number, member, self.members[member])

    def where(self, member: str) -> str:
        """The place of a member, for messages."""
        return f"{self.pictures.path}: {self.key}.{member}"

    def _stored_crop(self, member: str) -> np.ndarray:
        crop = decode_picture(self.read(member), self.where(member))
        if crop.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(f"{self.where(member)} must be an aligned crop of {CROP_SIZE} x {CROP_SIZE} pixels")
        return crop


def open_dataset(path: str | Path) -> PictureSet:
    """Open a set: a folder of shards, or a plain folder with the same files outside of tar files.

    Shards that `dataset.json` does not list (made by other tools, or added) are indexed now, which reads them through
    once. A plain folder is indexed at every opening.
    Raises ValueError for a folder that is missing, empty or not finished, and naming the file that has a fault.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"the training pictures {folder} are no folder; prepare a set first")
    if (folder / UNFINISHED).is_dir():
        raise ValueError(f"the set in {folder} is not complete; run the command that makes it again, it will go on")
    has_index = (folder / INDEX_FILE).exists()
    index = read_index(folder) if has_index else SetIndex(())
    tars = sorted(folder.glob("*.tar"))
    if missing := {shard.name for shard in index.shards} - {tar.name for tar in tars}:
        raise ValueError(f"{folder / INDEX_FILE} lists the shard {min(missing)}, which is missing")
    if not tars:
        return PictureSet(folder, _index_folder(folder, index), in_shards=False)
    known = {shard.name: shard for shard in index.shards if shard.length == (folder / shard.name).stat().st_size}
    shards = tuple(known.get(tar.name) or _index_new(tar) for tar in tars)
    _check_keys(folder, shards)
    if len(known) < len(tars):
        index = SetIndex(shards, index.prepared, index.cache)
        _keep_index(folder, index)
    return PictureSet(folder, index, in_shards=True)


def _index_new(tar: Path) -> ShardIndex:
    logger.info("indexing the shard %s", tar)
    return index_shard(tar)


def _keep_index(folder: Path, index: SetIndex) -> None:
    try:
        write_index(folder, index)
    except OSError as error:  # a set may well lie on a medium that cannot be written
        logger.warning("the index of %s could not be kept (%s): it is made anew at every opening", folder, error)


def _check_keys(folder: Path, shards: Sequence[ShardIndex]) -> None:
    seen: dict[str, str] = {}
    for shard in shards:
        for entry in shard.entries:
            if entry.key in seen:
                raise ValueError(f"{folder}: the key {entry.key} occurs in {seen[entry.key]} and again in {shard.name}")
            seen[entry.key] = shard.name


def _index_folder(folder: Path, index: SetIndex) -> SetIndex:
    """Index the samples of a plain folder: every record below it with the files of the same name."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name[0] != "." and path != folder / INDEX_FILE:
            key, member = split_name(path.relative_to(folder).as_posix())
            samples.setdefault(key, {})[member] = (0, path.stat().st_size)
    entries = []
    for key, members in sorted(samples.items()):
        if RECORD_MEMBER in members:
            entries.append(_folder_entry(folder, key, members))
    if not entries:
        raise ValueError(f"there are no training pictures in {folder}: neither shards nor pictures with a .json each")
    return SetIndex((ShardIndex("", 0, tuple(entries)),), index.prepared, index.cache)


def _folder_entry(folder: Path, key: str, members: Mapping[str, tuple[int, int]]) -> Entry:
    return make_entry(key, members, lambda member: (folder / f"{key}.{member}").read_bytes(), str(folder / key))
