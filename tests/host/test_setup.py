"""The pieces of a set-up: links, locks, packages, the unpacked source, and what an interrupted one leaves."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from likeness.host import managed
from likeness.host.comfyui_source import unpack
from likeness.host.environment import SetupError
from likeness.host.links import link_folder
from likeness.host.locks import only_one
from likeness.host.managed import managed_comfyui
from likeness.host.packages import Pip, extra_requirements, missing_packages, name_of, requirements_in


def test_a_link_leads_to_its_folder_and_can_be_turned(tmp_path):
    for name in ("one", "two", "two"):  # made, turned, left as it is
        (tmp_path / name).mkdir(exist_ok=True)
        link_folder(tmp_path / name, tmp_path / "links" / "here")
        assert (tmp_path / "links" / "here").resolve() == (tmp_path / name).resolve()
    assert (tmp_path / "one").is_dir()


def test_a_link_replaces_one_that_leads_nowhere(tmp_path):
    for name in ("gone", "there"):
        (tmp_path / name).mkdir()
    link_folder(tmp_path / "gone", tmp_path / "here")
    (tmp_path / "gone").rmdir()
    link_folder(tmp_path / "there", tmp_path / "here")
    assert (tmp_path / "here").resolve() == (tmp_path / "there").resolve()


def test_a_real_folder_in_the_way_is_left_alone(tmp_path):
    for name in ("target", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "precious").touch()
    with pytest.raises(FileExistsError, match="it is not a link"):
        link_folder(tmp_path / "target", tmp_path / "here")
    assert (tmp_path / "here" / "precious").exists()


def test_a_second_set_up_waits_until_the_first_has_died(tmp_path, capsys):
    lock = tmp_path / "some" / "lock"
    script = f"""
        import sys, time
        from pathlib import Path
        from likeness.host.locks import only_one
        with only_one(Path({str(lock)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waiter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert waiter.stdout is not None
        assert waiter.stdout.readline().startswith("Another set-up is at work here; waiting")
        holder.kill()
        assert waiter.stdout.readline() == "held\n"
        waiter.communicate("", timeout=30)
    finally:
        for process in (holder, waiter):
            process.kill()
            process.communicate()
    with only_one(lock):
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("requirement", "name"), [("Open_CLIP.torch>=2", "open-clip-torch"), ("a[b]==1; python_version<'4'", "a")]
)
def test_names_of_requirements(requirement, name):
    assert name_of(requirement) == name


def test_requirements_come_without_comments():
    assert requirements_in("# why\n\na>=1  # because\nb\n") == ["a>=1", "b"]


def test_extras_are_read_from_the_project_file():
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert {"pytest", "ruff", "mypy"} <= {
        name_of(item) for item in extra_requirements(Path(sys.executable), pyproject, "dev")
    }


def test_missing_packages_are_named():
    wanted = ["pytest>=8", "No_Such.package>=1", "Pillow"]
    assert missing_packages(Path(sys.executable), wanted) == ["no-such-package"]


def test_an_interpreter_that_does_not_run_is_told(tmp_path):
    (tmp_path / "python").touch()
    with pytest.raises(SetupError, match=r"python cannot be used"):
        missing_packages(tmp_path / "python", [])


def test_failed_installing_shows_the_log_and_advice(tmp_path):
    pip = Pip(Path(sys.executable), tmp_path / "pip.log")
    with pytest.raises(SetupError) as caught:
        pip("install", "--no-index", "no-such-package-of-likeness")
    message = str(caught.value)
    assert "No matching distribution found for no-such-package-of-likeness" in message
    for advice in (str(pip.log), "disk space", "network", "LIKENESS_COMFYUI"):
        assert advice in message


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """`archive({path: content}, links={path: target})` writes a .tar.gz."""

    def write(files: dict[str, bytes], links: dict[str, str]) -> Path:
        path = tmp_path / "source.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, target in links.items():
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, target
                tar.addfile(member)
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return write


def test_only_the_inner_folders_regular_files_are_unpacked(archive, tmp_path):
    inner = "carrier-1/vendor/ComfyUI"
    files = {
        f"{inner}/main.py": b"main",
        f"{inner}/comfy/sd.py": b"sd",
        f"{inner}/../../escaped": b"x",
        "carrier-1/setup.py": b"x",
        "/absolute": b"x",
        f"{inner}/out/through_link": b"x",
    }
    folder = tmp_path / "unpacked" / "ComfyUI"
    unpack(archive(files, {f"{inner}/out": str(tmp_path / "outside")}), folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"main.py", "comfy/sd.py", "out/through_link"}
    assert not list(tmp_path.rglob("escaped")) and not (tmp_path / "outside").exists()
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_an_unfinished_set_up_is_begun_anew_and_never_returned(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    remains = tmp_path / managed._folder_name() / "venv" / "bin" / "python"
    remains.parent.mkdir(parents=True)
    remains.touch()
    with pytest.raises(SetupError, match="No matching distribution found for torch"):
        managed_comfyui(tmp_path)
    said = capsys.readouterr().out
    assert "Setting up ComfyUI 0.30.0" in said and "[2/5] PyTorch" in said and "[3/5]" not in said
