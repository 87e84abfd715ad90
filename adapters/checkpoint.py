"""Adapter files: read without running code, checked completely before use, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import pickletools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .families import Family, recognise

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# What is found under a model file's name where the download went wrong, by its first bytes.
_IMPOSTORS = {
    b"<": "it is a web page, such as a site sends that wants you to sign in or to accept a licence first",
    b"version https://git-lfs": "it is the pointer that Git LFS leaves where it did not fetch the file",
}
LISTED_KEYS = 4  # so many offending keys are named in an error, the others are counted


class CheckpointError(ValueError):
    """A model file that cannot be used; the message says which, why, and what to do."""


class DamagedFileError(CheckpointError):
    """A model file that is not whole, or something else under its name."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of one file under flat keys, nested ones joined by dots, on the CPU."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    @property
    def family(self) -> Family:
        """What system the file belongs to, by its keys."""
        return recognise({key: tuple(value.shape) for key, value in self.tensors.items()})

    def shape(self, key: str, num_axes: int) -> tuple[int, ...]:
        """The shape of one tensor.

        Raises CheckpointError if it is missing or has another number of axes.
        """
        if key not in self.tensors:
            raise CheckpointError(f"{self.name} ({self.family.label}) is not complete: the key {key} is missing.")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != num_axes:
            raise CheckpointError(f"{self.name}: {key} has the shape {shape}, expected {num_axes} axes.")
        return shape


def read_tensors(path: str | Path) -> Checkpoint:
    """Read a .safetensors file or a pickle (.bin, .pt, .pth, .ckpt), the latter with weights_only=True and never else.

    Numbers and texts beside the tensors of a pickle go to the metadata. Raises CheckpointError if the file is missing,
    of another kind, damaged, contains code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, or is a folder; choose a file.")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in PICKLES:
        return _read_pickle(path)
    raise CheckpointError(
        f"{path.name} is not a model file: its name should end in .safetensors, {', '.join(PICKLES)}."
    )


def load_strictly(
    module: nn.Module,
    expected: Mapping[str, tuple[int, ...]],
    sources: Sequence[tuple[Checkpoint, Mapping[str, str]]],
) -> None:
    """Give the module its tensors from one or several files, in the dtype in which they are stored.

    expected holds the shape of each of the module's keys: taken from a twin on the meta device, because a host's layers
    may have no weights before loading. sources are files with their names, module key -> file key; each file must hold
    exactly these keys. The first file sets the sizes of the others. Raises CheckpointError.
    """
    state = {}
    for file, names in sources:
        to = "" if file is sources[0][0] else f" {sources[0][0].name}"
        check_tensors(file, {name: expected[key] for key, name in names.items()}, to)
        state.update({key: file.tensors[name] for key, name in names.items()})
    module.load_state_dict(state, strict=True, assign=True)


def check_tensors(file: Checkpoint, expected: Mapping[str, tuple[int, ...]], to: str = "") -> None:
    """Raise CheckpointError unless the file holds exactly these keys with these shapes."""
    missing = [key for key in expected if key not in file.tensors]
    extra = [key for key in file.tensors if key not in expected]
    shapes = [
        f"{key} is {tuple(file.tensors[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in file.tensors and tuple(file.tensors[key].shape) != shape
    ]
    faults = [
        f"{len(keys)} {what}: {_first(keys)}"
        for what, keys in (("missing", missing), ("not known", extra), ("of another shape", shapes))
        if keys
    ]
    if faults:
        raise CheckpointError(f"{file.name} ({file.family.label}) does not fit{to}. Keys {'; '.join(faults)}.")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file so that a reader sees the old file or the complete new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(copies, temporary, metadata=dict(metadata))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over named tensors as float16: the same for every edition of one model."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, "pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if not tensors:
        raise CheckpointError(f"{path.name} holds no tensors.")
    return Checkpoint(path, tensors, metadata)


def _read_pickle(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _code_in(path, error)
        if code:
            raise CheckpointError(
                f"{path.name} contains code beside its tensors ({code}) and was not opened. Get the file from its "
                "publisher, or a .safetensors edition."
            ) from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    _flatten(path, content, "", tensors, metadata)
    if not tensors:
        raise CheckpointError(f"{path.name} holds no tensors.")
    return Checkpoint(path, tensors, metadata)


def _code_in(path: Path, error: pickle.UnpicklingError) -> str:
    """What a refused pickle would have called, or "" where it was refused for another reason."""
    named = re.search(r"unsupported (?:global: global|global|class) (\S+)|unrecognized function (.+)", str(error), re.I)
    if named:
        return next(name for name in named.groups() if name)
    calls = {"GLOBAL", "STACK_GLOBAL", "INST"}  # a pickle that torch did not write; genops reads and does not run it
    with open(path, "rb") as file:
        try:
            return next((opcode.name for opcode, _, _ in pickletools.genops(file) if opcode.name in calls), "")
        except ValueError:
            return ""


def _flatten(path: Path, content: Any, prefix: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    if isinstance(content, Mapping):
        for key, value in content.items():
            _flatten(path, value, f"{prefix}.{key}" if prefix else str(key), tensors, metadata)
    elif isinstance(content, Tensor) and prefix:
        tensors[prefix] = content.detach()
    elif isinstance(content, str | int | float | None) and prefix:
        metadata[prefix] = str(content)
    else:
        where = f"at {prefix}" if prefix else "instead of a dictionary of tensors"
        raise CheckpointError(f"{path.name} is not an adapter file: it holds a {type(content).__name__} {where}.")


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    size, promised = f"{path.stat().st_size:,} bytes", _promised_size(path)
    if promised is not None:
        size += f" of {promised:,}"
    start = _beginning(path, 64).lstrip()
    reason = next((text for known, text in _IMPOSTORS.items() if start.startswith(known)), _short(error))
    return DamagedFileError(
        path, f"{path.name} is damaged or incomplete ({size}): {reason}. Download it again, compare its size."
    )


def _promised_size(path: Path) -> int | None:
    """How many bytes the header of a .safetensors file announces; None for other files and where it is not whole."""
    if path.suffix.lower() != ".safetensors":
        return None
    length = int.from_bytes(_beginning(path, 8), "little")
    header = _beginning(path, 8 + min(length, path.stat().st_size))[8:]
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + max(ends)
    except (ValueError, LookupError, TypeError, AttributeError):  # no header of this format
        return None


def _beginning(path: Path, length: int) -> bytes:
    """The first bytes of a file; none of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError:
        return b""


def _short(error: Exception) -> str:
    """The line of an error that says what happened; torch puts a page of advice around it."""
    lines = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")[:200]


def _first(keys: list[str]) -> str:
    rest = len(keys) - LISTED_KEYS
    return ", ".join(keys[:LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")
