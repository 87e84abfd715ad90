"""Which ComfyUI the environment variables name, and where things are cached."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from likeness.host.environment import ComfyUI, SetupError, cache_folder, interpreter_in, named_comfyui


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a ComfyUI."""
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def place(interpreter: Path) -> Path:
    interpreter.parent.mkdir(parents=True)
    interpreter.touch()
    return interpreter


def test_no_variable_names_no_comfyui():
    assert named_comfyui({}) is None
    assert named_comfyui({"LIKENESS_COMFYUI": "", "LIKENESS_PYTHON": ""}) is None


def test_named_folder_and_interpreter_are_taken(folder, tmp_path):
    python = place(tmp_path / "elsewhere" / "python")
    found = named_comfyui({"LIKENESS_COMFYUI": str(folder), "LIKENESS_PYTHON": str(python)})
    assert found == ComfyUI(folder, python)


@pytest.mark.parametrize("name", ["venv", ".venv"])
def test_interpreter_of_the_folders_own_virtual_environment(folder, name):
    python = place(interpreter_in(folder / name))
    assert named_comfyui({"LIKENESS_COMFYUI": str(folder)}) == ComfyUI(folder, python)


def test_interpreter_of_the_portable_build(folder):
    python = place(folder.parent / "python_embeded" / "python.exe")
    assert named_comfyui({"LIKENESS_COMFYUI": str(folder)}) == ComfyUI(folder, python)


def test_running_interpreter_is_the_last_resort(folder):
    assert named_comfyui({"LIKENESS_COMFYUI": str(folder)}) == ComfyUI(folder, Path(sys.executable))


def test_interpreter_without_a_folder_is_refused():
    with pytest.raises(SetupError, match="LIKENESS_PYTHON is set, but LIKENESS_COMFYUI is not"):
        named_comfyui({"LIKENESS_PYTHON": sys.executable})


def test_folder_without_comfyui_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"which is no ComfyUI: the folder that holds main\.py"):
        named_comfyui({"LIKENESS_COMFYUI": str(tmp_path)})


def test_interpreter_that_is_no_file_is_refused(folder):
    with pytest.raises(SetupError, match="which is no file: the interpreter itself is meant"):
        named_comfyui({"LIKENESS_COMFYUI": str(folder), "LIKENESS_PYTHON": str(folder)})


def test_cache_folder_is_named_by_its_variable(tmp_path):
    assert cache_folder({"LIKENESS_CACHE": str(tmp_path)}) == tmp_path


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="other systems have other cache folders")
def test_cache_folder_is_the_platforms(tmp_path):
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "likeness"
    assert cache_folder({}) == Path.home() / ".cache" / "likeness"
