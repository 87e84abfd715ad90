"""Checkpoint folders that are whole or not there: written aside, synced to disk, renamed, and checked by SHA-256."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from .errors import DiskFullError, TrainingError, is_disk_full

logger = logging.getLogger("likeness.trainer")

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_PART = re.compile(r"\.step-\d{8,}\.part")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder: so many steps were done when it was written."""

    path: Path
    step: int

    def fault(self) -> str:
        """What is wrong with the folder's content, or "" if every file is what the manifest says."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text("utf-8"))
            listed = {name: (entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()}
        except FileNotFoundError:
            return f"it has no {MANIFEST}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{MANIFEST} cannot be read ({error})"
        if manifest.get("format") != FORMAT:
            return f"it was written in format {manifest.get('format')}, this trainer reads format {FORMAT}"
        for name, (digest, size) in listed.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size:,} bytes instead of {size:,}"
            if sha256(file) != digest:
                return f"{name} does not have the checksum that was noted when it was written"
        return ""


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_name(step: int) -> str:
    """Name of the checkpoint folder after so many steps."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a folder, newest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [
        Checkpoint(path, int(match[1]))
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files all have their checksums; damaged newer ones are named and set aside.

    None if there is no checkpoint at all. Raises TrainingError if there are some and none is whole.
    """
    checkpoints = list_checkpoints(folder)
    damaged: list[Checkpoint] = []
    for checkpoint in checkpoints:
        fault = checkpoint.fault()
        if not fault:
            for bad in damaged:
                set_aside(bad, "damaged")
            return checkpoint
        logger.warning("the checkpoint %s is damaged: %s. Looking for the one before it.", checkpoint.path, fault)
        damaged.append(checkpoint)
    if checkpoints:
        raise TrainingError(
            f"none of the {len(checkpoints)} checkpoints in {folder} is whole. Name one elsewhere with --resume PATH, "
            "or move the folder away and start again."
        )
    return None


def set_aside(checkpoint: Checkpoint, why: str) -> Path:
    """Rename a checkpoint so that no run takes it up; nothing is deleted."""
    target = checkpoint.path.with_name(f"{why}-{checkpoint.path.name}")
    number = 1
    while target.exists():
        number += 1
        target = checkpoint.path.with_name(f"{why}-{checkpoint.path.name}-{number}")
    checkpoint.path.rename(target)
    logger.warning("%s is now called %s", checkpoint.path.name, target.name)
    return target


def clear_parts(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _PART.fullmatch(path.name):
            shutil.rmtree(path)


def part_folder(folder: Path, step: int) -> Path:
    """Where the files of a checkpoint gather before it gets its name."""
    return folder / f".{folder_name(step)}.part"


def write_checkpoint(folder: Path, step: int, write_files: Callable[[Path], None]) -> Checkpoint:
    """Let `write_files` fill a new folder, then note the checksums, sync everything to disk and give it its name.

    Raises DiskFullError if there is no room; whatever is raised, nothing is left behind.
    """
    part, target = part_folder(folder, step), folder / folder_name(step)
    try:
        part.mkdir(parents=True, exist_ok=True)  # the other processes of a sharded run may have written here already
        write_files(part)
        _write_manifest(part, step)
        _sync_folder(part)
        if target.exists():
            set_aside(Checkpoint(target, step), "replaced")
        part.rename(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(
            f"the checkpoint of step {step} could not be written: no space left in {folder} ({error})."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Checkpoint(target, step)


def prune(folder: Path, keep_last: int, keep_every: int) -> None:
    """Delete all but the last `keep_last` checkpoints and those at multiples of `keep_every` (0: none)."""
    for checkpoint in list_checkpoints(folder)[max(keep_last, 1) :]:
        if not keep_every or checkpoint.step % keep_every:
            # A folder that is deleted file by file must not look like a checkpoint half-way.
            gone = checkpoint.path.with_name(f".{checkpoint.path.name}.part")
            checkpoint.path.rename(gone)
            shutil.rmtree(gone)


def _write_manifest(part: Path, step: int) -> None:
    files = sorted(path for path in part.rglob("*") if path.is_file())
    entries = {
        path.relative_to(part).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size} for path in files
    }
    text = json.dumps({"format": FORMAT, "step": step, "files": entries}, indent=1)
    (part / MANIFEST).write_text(text, "utf-8")


def _sync_folder(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows cannot open folders, and needs write access for files."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
