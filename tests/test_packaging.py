"""What the wheel holds, and what the project's files say to the tools of Python and of ComfyUI."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from likeness.host.packages import name_of, requirements_in
from PIL import Image
from pip._vendor.packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FRONTEND = "comfyui-frontend-package"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built without a network from a copy: building leaves a folder that would get into the next wheel."""
    scratch = tmp_path_factory.mktemp("wheel")
    copy = scratch / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__"))
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(scratch), str(copy)]
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", *options], capture_output=True, text=True, cwd=scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = scratch.glob("likeness-*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def package_folders() -> set[str]:
    """Folders with __init__.py, as dotted names below likeness."""
    found = {
        ".".join(["likeness", *file.parent.relative_to(ROOT).parts])
        for file in ROOT.rglob("__init__.py")
        if not re.match(r"\.|tests$|docs$|build$|dist$|output$", file.relative_to(ROOT).parts[0])
    }
    assert len(found) >= 7, found
    return found


def test_listed_packages_are_the_folders_with_an_init_file(project):
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(package_folders())


def test_wheel_holds_every_file_of_every_room(wheel):
    rooms = {name.split(".")[1] for name in package_folders() if "." in name} | {"web", "workflows"}
    wanted = {
        PurePosixPath("likeness", *file.relative_to(ROOT).parts).as_posix()
        for room in rooms
        for file in (ROOT / room).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert any(name.startswith("likeness/faces/weights/") for name in wanted)
    assert sorted(wanted - set(wheel.namelist())) == []


def test_wheel_installs_nothing_beside_its_package(wheel):
    assert {name.split("/")[0] for name in wheel.namelist()} == {"likeness", "likeness-0.1.0.dist-info"}


def test_wheel_describes_the_project(metadata, project):
    assert (metadata["Name"], metadata["Version"]) == ("likeness", "0.1.0")
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-File"] == "LICENSE"
    assert "Repository, https://github.com/comfyui-likeness/ComfyUI-Likeness" in metadata.get_all("Project-URL")
    assert set(metadata.get_all("Provides-Extra")) == set(project["project"]["optional-dependencies"])
    assert len(metadata.get_payload()) > 1000  # the README


def test_requirements_are_the_dependencies_less_the_frontend(project):
    dependencies = [item for item in project["project"]["dependencies"] if name_of(item) != FRONTEND]
    assert requirements_in((ROOT / "requirements.txt").read_text("utf-8")) == dependencies
    assert len(project["project"]["dependencies"]) == len(dependencies) + 1


def test_a_users_build_of_pytorch_and_runtime_stay_as_they_are():
    names = {name_of(item) for item in requirements_in((ROOT / "requirements.txt").read_text("utf-8"))}
    assert not names & {"torch", "torchvision", "torchaudio", "onnxruntime", "onnxruntime-gpu", FRONTEND}


def test_requirements_have_no_upper_limit(project):
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    pinned = {name_of(item) for items in lists for item in items if re.search(r"==|<|~=", item)}
    assert pinned == {"mypy", "ruff"}


def test_one_environment_meets_comfyuis_requirements_and_ours(comfyui_path):
    """This one: whatever both ask for is installed in a version that both allow."""
    asked: dict[str, list[Requirement]] = {}
    for file in (comfyui_path / "requirements.txt", ROOT / "requirements.txt"):
        for item in requirements_in(file.read_text("utf-8")):
            asked.setdefault(name_of(item), []).append(Requirement(item))
    shared = {name for name, requirements in asked.items() if len(requirements) > 1}
    assert {"numpy", "pillow", "safetensors"} <= shared
    for name in shared:
        found = importlib.metadata.version(name)
        assert all(requirement.specifier.contains(found) for requirement in asked[name]), (found, asked[name])


def test_the_readmes_table_of_versions_is_the_projects(project):
    table = dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    comfyui = project["tool"]["comfy"]["requires-comfyui"].removeprefix(">=").removesuffix(".0")
    (frontend,) = (item for item in project["project"]["dependencies"] if name_of(item) == FRONTEND)
    assert table["ComfyUI"] == f"{comfyui} or newer; frontend {frontend.partition('>=')[2]} or newer"
    prefix = "Programming Language :: Python :: 3."
    minors = [int(line.removeprefix(prefix)) for line in project["project"]["classifiers"] if line.startswith(prefix)]
    assert table["Python"] == f"3.{min(minors)} to 3.{max(minors)}"
    assert project["project"]["requires-python"] == f">=3.{min(minors)}"


def test_comfyui_reads_the_fields_of_its_registry(comfyui_path):
    from comfy_config.config_parser import extract_node_configuration

    found = extract_node_configuration(str(ROOT))
    assert found.tool_comfy.publisher_id == "comfyui-likeness"
    assert found.tool_comfy.display_name == "Likeness"
    assert found.project.license.file == "LICENSE"
    assert found.project.supported_os == ["OS Independent"]
    assert len(found.project.supported_accelerators) == 3
    assert found.project.supported_comfyui_version == ">=0.30.0"
    assert found.project.supported_comfyui_frontend_version == ">=1.47"


def test_icon_fits_the_registry():
    with Image.open(ROOT / "icon.png") as icon:
        assert icon.size == (400, 400)
    assert (ROOT / "icon.png").stat().st_size < 30_000
