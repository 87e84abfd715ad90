"""Which ComfyUI is used: the user's own, or one that is fetched into the cache folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER_VARIABLE = "LIKENESS_COMFYUI"
PYTHON_VARIABLE = "LIKENESS_PYTHON"
CACHE_VARIABLE = "LIKENESS_CACHE"


class SetupError(RuntimeError):
    """The environment cannot be used or made; the message says what to do."""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI source folder and the interpreter that has its requirements."""

    folder: Path
    python: Path


def named_comfyui(variables: Mapping[str, str] = os.environ) -> ComfyUI | None:
    """Return the ComfyUI that the environment variables name, or None when they name none.

    LIKENESS_COMFYUI is its folder, LIKENESS_PYTHON its interpreter. Without the latter a `venv` or `.venv` inside the
    folder, a `python_embeded` beside it (the portable build spells it so) or else the running interpreter is taken.

    Raises:
        SetupError: the variables name something that is not there.
    """
    folder_name, python_name = variables.get(FOLDER_VARIABLE, ""), variables.get(PYTHON_VARIABLE, "")
    if not folder_name:
        if python_name:
            raise SetupError(f"{PYTHON_VARIABLE} is set, but {FOLDER_VARIABLE} is not: set both or neither.")
        return None
    folder = Path(folder_name).expanduser().absolute()
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        raise SetupError(
            f"{FOLDER_VARIABLE} is {folder}, which is no ComfyUI: the folder that holds main.py and comfy/ is meant."
        )
    if python_name:
        python = Path(python_name).expanduser().absolute()
        if not python.is_file():
            raise SetupError(f"{PYTHON_VARIABLE} is {python}, which is no file: the interpreter itself is meant.")
        return ComfyUI(folder, python)
    return ComfyUI(folder, _python_of(folder))


def _python_of(folder: Path) -> Path:
    candidates = [interpreter_in(folder / name) for name in ("venv", ".venv")]
    candidates.append(folder.parent / "python_embeded" / "python.exe")
    return next((candidate for candidate in candidates if candidate.is_file()), Path(sys.executable))


def interpreter_in(virtual_environment: Path) -> Path:
    """Return where a virtual environment keeps its interpreter."""
    if os.name == "nt":
        return virtual_environment / "Scripts" / "python.exe"
    return virtual_environment / "bin" / "python"


def cache_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for what is fetched: LIKENESS_CACHE, else `likeness` in the platform's user cache folder."""
    if variables.get(CACHE_VARIABLE):
        return Path(variables[CACHE_VARIABLE]).expanduser().absolute()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(variables.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "likeness"
