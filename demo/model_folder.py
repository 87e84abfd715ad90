"""Files of tiny models below a ComfyUI models folder: whole or not there, and never in the place of a real model."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

logger = logging.getLogger("likeness.demo")


def write_models(
    manifest: Path, paths: Mapping[str, Path], recipe: Mapping[str, Any], contents: Callable[[], Mapping[str, bytes]]
) -> None:
    """Write the files at `paths` (name -> path) with what `contents` returns (name -> content).

    The manifest lists what was written. Files that are there, whole and of this recipe are left alone, and `contents`
    is not asked then; each file appears at once or not at all.

    Raises ValueError when a file of one of these names is there that is not on the manifest.
    """
    known = json.loads(manifest.read_text("utf-8")) if manifest.is_file() else {}
    if known.get("recipe") == recipe and _are_whole(paths, known["sha256"]):
        return
    foreign = [path for name, path in paths.items() if path.exists() and name not in known.get("sha256", {})]
    if foreign:
        raise ValueError(
            f"{foreign[0]} is not one of the tiny models and would be overwritten: "
            "give a models folder of its own, or move this file away"
        )
    files = contents()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    # The manifest comes first: after a crash it lists what is missing, and nothing of ours is taken for foreign.
    _write_atomically(manifest, json.dumps({"recipe": recipe, "sha256": digests}, indent=1).encode())
    for name, content in files.items():
        _write_atomically(paths[name], content)
    size = sum(map(len, files.values())) / 1e6
    logger.info("wrote %d tiny models, %.1f MB, to %s", len(files), size, manifest.parent)


def code_digest(modules: Iterable[ModuleType], files: Iterable[Path] = ()) -> str:
    """Digest of what makes the weights, so that a change there makes new files."""
    sources = [Path(inspect.getfile(module)).read_bytes() for module in modules]
    return hashlib.sha256(b"".join(sources + [path.read_bytes() for path in files])).hexdigest()


def pickled(content: object) -> bytes:
    """What `torch.save` writes; equal contents give equal bytes."""
    buffer = io.BytesIO()  # a path would write its name into the archive
    torch.save(content, buffer)
    return buffer.getvalue()


def saved(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file; equal contents give equal bytes, while the library writes metadata in any order."""
    content = safetensors.torch.save(dict(tensors), dict(metadata))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    assert len(text) == size, "the library writes headers in another way than before"
    return content[:8] + text + content[8 + size :]


def half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in float16."""
    return {key: tensor.half() for key, tensor in tensors.items()}


def _are_whole(paths: Mapping[str, Path], digests: Mapping[str, str]) -> bool:
    return all(
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digests.get(name)
        for name, path in paths.items()
    )


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
