"""The list of pictures that the command measures: one JSON file, or JSON Lines whose first line is the head.

All paths are relative to the folder of the manifest. Nothing is guessed: unknown fields are refused, and every file
that is named must be there before anything is measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from .judges.loading import JUDGES
from .pictures import Picture, Reference

FORMAT = 1
_FAULTS_SHOWN = 5

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Number = bool | int | float | str | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ReferenceRecord(_Strict):
    """One person. files: the photos that the method saw; compare: photos to compare to, the same ones if left out."""

    person: Text
    files: list[Text] = Field(min_length=1)
    compare: list[Text] = Field(default=[])


class PictureRecord(_Strict):
    """One generated picture; see `pictures.Picture`."""

    file: Text
    row: Text
    prompt: str = ""
    seed: int | None = None
    references: list[ReferenceRecord] = Field(default=[])
    others: list[ReferenceRecord] = Field(default=[])
    routing: Text | None = None
    masks: Text | None = None
    expected: dict[str, Number] = Field(default={})


class Head(_Strict):
    """format: 1. conditioned_by: SHA-256 of the files that saw the references, or judges' names; may be empty."""

    format: Literal[1]
    conditioned_by: list[Text]


class Manifest(Head):
    """A whole manifest."""

    pictures: list[PictureRecord] = Field(min_length=1)


@dataclass(frozen=True)
class Task:
    """What a manifest asks for."""

    pictures: tuple[Picture, ...]
    conditioned_by: tuple[str, ...]


def read_manifest(path: str | Path) -> Task:
    """Read and check a manifest (.json or .jsonl).

    Raises ValueError that lists what is wrong with its form, or which files are not there.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the manifest {path} could not be read: {error}") from error
    try:
        manifest = Manifest.model_validate(_content(text, path))
    except json.JSONDecodeError as error:
        raise ValueError(f"the manifest {path} is not valid JSON: {error}") from error
    except ValidationError as error:
        raise ValueError(f"the manifest {path} is not as it should be:\n{_faults(error)}") from error
    _check_conditioning(manifest.conditioned_by)
    _check_files(manifest, path)
    return Task(tuple(_pictures(manifest, path.parent)), tuple(manifest.conditioned_by))


def _content(text: str, path: Path) -> Any:
    if path.suffix.lower() != ".jsonl":
        return json.loads(text)
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    head = lines[0] if lines and isinstance(lines[0], dict) else {}
    return {**head, "pictures": lines[1:]}


def _faults(error: ValidationError) -> str:
    faults = [
        f"  {'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        for fault in error.errors(include_url=False)
    ]
    rest = len(faults) - _FAULTS_SHOWN
    return "\n".join(faults[:_FAULTS_SHOWN] + ([f"  and {rest} more"] if rest > 0 else []))


def _check_conditioning(entries: list[str]) -> None:
    for entry in entries:
        if entry not in JUDGES and not re.fullmatch(r"[0-9a-f]{64}", entry):
            raise ValueError(
                f"conditioned_by must name the SHA-256 of a file (64 lower-case hexadecimal digits) or a judge "
                f"({', '.join(JUDGES)}), got {entry!r}"
            )


def _check_files(manifest: Manifest, path: Path) -> None:
    missing = [name for name in dict.fromkeys(_files(manifest)) if not (path.parent / name).is_file()]
    if missing:
        shown = ", ".join(missing[:_FAULTS_SHOWN])
        more = f" and {len(missing) - _FAULTS_SHOWN} more" if len(missing) > _FAULTS_SHOWN else ""
        raise ValueError(
            f"{len(missing)} files of the manifest {path} are not there: {shown}{more}. Paths are relative to its "
            "folder"
        )


def _files(manifest: Manifest) -> Iterator[str]:
    for picture in manifest.pictures:
        yield picture.file
        yield from (name for name in (picture.routing, picture.masks) if name is not None)
        for person in (*picture.references, *picture.others):
            yield from (*person.files, *person.compare)


def _pictures(manifest: Manifest, folder: Path) -> Iterator[Picture]:
    known: dict[tuple[str, ...], Reference] = {}

    def reference(record: ReferenceRecord) -> Reference:
        files = tuple(record.compare or record.files)
        return known.setdefault(
            (record.person, *files), Reference(record.person, tuple(folder / name for name in files))
        )

    for record in manifest.pictures:
        yield Picture(
            name=record.file,
            row=record.row,
            image=folder / record.file,
            references=tuple(map(reference, record.references)),
            prompt=record.prompt,
            seed=record.seed,
            others=tuple(map(reference, record.others)),
            routing={} if record.routing is None else folder / record.routing,
            masks=None if record.masks is None else folder / record.masks,
            expected=record.expected,
        )
