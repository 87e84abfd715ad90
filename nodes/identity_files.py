"""Names and places of saved identities."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from .model_folders import IDENTITIES, saved_identities_folder

SUFFIX = ".safetensors"
_LONGEST_NAME = 100
# Not allowed by Windows, or with a meaning in a shell or a path; control characters too.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # Windows devices


def clean_name(text: str) -> str:
    """A file name without suffix that every system takes, or "" if nothing of the text is left."""
    name = _FORBIDDEN.sub("_", text.strip()).removesuffix(SUFFIX)
    name = name[:_LONGEST_NAME].strip(". ")
    if not name.strip("_"):
        return ""
    return f"_{name}" if _RESERVED.match(name) else name


def path_to_save(name: str, overwrite: bool) -> Path:
    """Where an identity of this name goes: below the output folder, numbered unless a file may be overwritten.

    Raises:
        ValueError: the file to overwrite lies in another folder, which loading would prefer.
    """
    target = saved_identities_folder() / f"{name}{SUFFIX}"
    if overwrite:
        known = folder_paths.get_full_path(IDENTITIES, target.name)
        if known is not None and Path(known).resolve() != target.resolve():
            raise ValueError(
                f"Save Identity: {known} has this name already and would be loaded instead of a new "
                f"{target}. Choose another filename, or move that file away."
            )
        return target
    number = 1
    while folder_paths.get_full_path(IDENTITIES, target.name) is not None or target.exists():
        number += 1
        target = target.with_name(f"{name}_{number}{SUFFIX}")
    return target
