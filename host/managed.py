"""A ComfyUI of our own in the cache folder: built once per Python version and per list of packages."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .comfyui_source import CARRIER, COMFYUI_VERSION, fetch_comfyui
from .console import say, step
from .environment import ROOT, ComfyUI, SetupError, interpreter_in
from .locks import only_one
from .packages import Pip, name_of, requirements_in
from .torch_repairs import repair_torch_companions

TORCH = "torch==2.13.0"  # all our figures were measured with this one, and torchvision goes with exactly one
TORCH_COMPANIONS = ("torchvision==0.28.0", "torchaudio==2.11.0")  # the newest that go with it
# Half a gigabyte of templates and pages, and an OpenGL node: ComfyUI runs without them.
NOT_NEEDED = {"comfyui-workflow-templates", "comfyui-embedded-docs", "pyopengl", "comfy-angle"}
READY = "ready"  # written last: a folder without it is the rest of an interrupted set-up
NUM_STEPS = 5


def managed_comfyui(cache: Path) -> ComfyUI:
    """Return the ComfyUI in the folder `cache`, building it first when it is not there yet.

    Raises:
        SetupError: it cannot be built; nothing half-built is ever returned, now or later.
    """
    folder = cache / _folder_name()
    comfyui = ComfyUI(folder / "ComfyUI", interpreter_in(folder / "venv"))
    if not _is_ready(comfyui):
        with only_one(cache / f"{folder.name}.lock"):
            if not _is_ready(comfyui):
                _build(comfyui, Pip(comfyui.python, cache / f"{folder.name}.log"))
    return comfyui


def install_extra(comfyui: ComfyUI, extra: str, requirements: Sequence[str]) -> None:
    """Add the packages of one extra to a managed ComfyUI, unless just these were added before.

    Raises:
        SetupError: pip failed.
    """
    folder = comfyui.folder.parent
    record = folder / f"extra-{extra}"
    wanted = "\n".join(requirements)
    with only_one(folder.with_name(f"{folder.name}.lock")):
        if record.is_file() and record.read_text("utf-8") == wanted:
            return
        with step(1, 1, f"packages for {extra}"):
            pip = Pip(comfyui.python, folder.with_name(f"{folder.name}.log"))
            pip.install("--constraint", str(_constraints(folder)), *requirements)
        record.write_text(wanted, "utf-8")


def _folder_name() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    recipe = [TORCH, *TORCH_COMPANIONS, CARRIER, *sorted(NOT_NEEDED), *_own_requirements(), platform.machine()]
    digest = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:8]
    return f"comfyui-{COMFYUI_VERSION}-python-{version}-{digest}"


def _own_requirements() -> list[str]:
    return requirements_in((ROOT / "requirements.txt").read_text("utf-8"))


def _is_ready(comfyui: ComfyUI) -> bool:
    # The interpreter is a link, which dangles once the Python behind it has been removed.
    return (comfyui.folder.parent / READY).is_file() and comfyui.python.is_file()


def _constraints(folder: Path) -> Path:
    return folder / "constraints.txt"


def _build(comfyui: ComfyUI, pip: Pip) -> None:
    folder = comfyui.folder.parent
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    pip.log.write_text("", "utf-8")
    say(f"Setting up ComfyUI {COMFYUI_VERSION}, once, in {folder}\n(pip's output: {pip.log})")
    # Built where it stays, not renamed into place: a virtual environment's scripts hold its absolute path.
    with step(1, NUM_STEPS, "virtual environment"):
        _make_virtual_environment(folder / "venv")
    with step(2, NUM_STEPS, f"PyTorch ({TORCH})"):
        pip.install(TORCH, "setuptools", "wheel")
        _constraints(folder).write_text("\n".join([TORCH, *TORCH_COMPANIONS]) + "\n", "utf-8")
    with step(3, NUM_STEPS, " and ".join(name_of(package) for package in TORCH_COMPANIONS)):
        # No dependencies: all that they share with PyTorch comes in the next steps, and PyTorch itself must stay.
        pip.install("--no-deps", *TORCH_COMPANIONS)
    with step(4, NUM_STEPS, f"ComfyUI {COMFYUI_VERSION}"):
        fetch_comfyui(pip, comfyui.folder)
    with step(5, NUM_STEPS, "packages of ComfyUI and of Likeness"):
        theirs = requirements_in((comfyui.folder / "requirements.txt").read_text("utf-8"))
        wanted = [requirement for requirement in theirs if name_of(requirement) not in NOT_NEEDED]
        pip.install("--constraint", str(_constraints(folder)), *wanted, *_own_requirements())
        repair_torch_companions(comfyui.python)
    (folder / READY).write_text("", "utf-8")


def _make_virtual_environment(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(
            f"no virtual environment can be made with {sys.executable}:\n{done.stdout}{done.stderr}\n"
            "On Debian and Ubuntu install the package python3-venv; elsewhere use a complete Python."
        )
