"""The pictures that `prepare` begins with, and what lies beside them: captions, records, masks, tables."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .records import PictureRecord, parse_record
from .samples import decode_labels

_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_BESIDE = re.compile(r".*\.(mask|face\d+|other\d+)\.png", re.IGNORECASE)  # parts of other pictures' samples


@dataclass(frozen=True)
class Source:
    """A picture file: its path, and its name below the input folder, with / between folders."""

    path: Path
    name: str


@dataclass(frozen=True)
class Sidecar:
    """What the files beside a picture say. record: its faces, when those are to be trusted. mask: (H, W) labels."""

    caption: str | None = None
    person: str | None = None
    record: PictureRecord | None = None
    mask: np.ndarray | None = None


def find_sources(folders: Sequence[Path]) -> list[Source]:
    """All pictures below some folders, by folder and name.

    Raises ValueError for a folder that is missing or cannot be read, and when there is no picture in any.
    """
    sources: list[Source] = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder} with pictures")
        prefix = f"{folder.resolve().name}/" if len(folders) > 1 else ""
        names = sorted(path.relative_to(folder).as_posix() for path in _walk(folder))
        sources += [Source(folder / name, _printable(prefix + name)) for name in names]
    if not sources:
        listed = ", ".join(map(str, folders))
        raise ValueError(f"there are no pictures ({', '.join(_TYPES)}) in {listed} or the folders below")
    return sources


def _printable(name: str) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    found = []
    for parent, _, files in os.walk(folder, onerror=refuse):
        found += [Path(parent, file) for file in files if file.lower().endswith(_TYPES) and not _BESIDE.fullmatch(file)]
    return found


def digest(sources: Sequence[Source], *tables: Path | None) -> str:
    """A fingerprint of the names and sizes of pictures and of the content of tables."""
    state = hashlib.sha256()
    for source in sources:
        length = source.path.stat().st_size if source.path.exists() else -1  # a link that leads nowhere
        state.update(f"{source.name}\0{length}\n".encode())
    for table in tables:
        state.update(table.read_bytes() if table is not None else b"-")
    return state.hexdigest()[:16]


def read_sidecar(picture: Path, trust_faces: bool) -> Sidecar:
    """Read `<stem>.txt` (a caption, which goes first), `<stem>.json` and `<stem>.mask.png` beside a picture.

    The JSON file is a record (see `records`) or an object with "caption" and "person"; its faces are read only when
    they are to be trusted. Raises ValueError naming the file that is damaged, or missing and to be trusted.
    """
    text, record, mask = (picture.with_suffix(suffix) for suffix in (".txt", ".json", ".mask.png"))
    values = _read_json(record) if record.exists() else {}
    if trust_faces and not record.exists():
        raise ValueError(f"{record.name} is missing: its faces are to be trusted")
    person = values.pop("person", None) or _only_person(values)
    caption = _read_text(text) if text.exists() else values.get("caption")
    if not isinstance(caption, str | None) or not isinstance(person, str | None):
        raise ValueError(f"{record.name}: the fields `caption` and `person` must be text")
    return Sidecar(
        caption,
        person,
        parse_record(json.dumps({"caption": "", **values}).encode(), record.name) if trust_faces else None,
        decode_labels(mask.read_bytes(), mask.name) if mask.exists() else None,
    )


def _read_text(path: Path) -> str:
    try:
        return " ".join(path.read_text("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no text in UTF-8: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is no valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} must be a JSON object")
    return values


def _only_person(values: Mapping[str, Any]) -> Any:
    """The person of the only face of a record."""
    faces = values.get("faces")
    if isinstance(faces, list) and len(faces) == 1 and isinstance(faces[0], dict):
        return faces[0].get("person")
    return None


def read_table(path: Path, column: str) -> dict[str, str]:
    """A CSV file with the columns `file` and another one, as file -> value.

    Raises ValueError for a file that cannot be read, lacks a column, or names a file twice with different values.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the table {path} cannot be read: {error}") from error
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, value = row.get("file"), row.get(column)
        if not name or not value:
            raise ValueError(f"{path}, line {number}: the columns must be `file` and `{column}`, got {dict(row)}")
        if table.setdefault(name, value) != value:
            raise ValueError(f"{path}, line {number}: {name} was {table[name]} before and is {value} here")
    return table


def look_up(table: Mapping[str, str], source: Source) -> str | None:
    """A picture's value: by its name below the input folder, or by its file name alone."""
    return table.get(source.name) or table.get(source.path.name)
