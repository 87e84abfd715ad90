"""Installing packages with pip, its chatter kept in a log file, and reading what is to be installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .environment import FOLDER_VARIABLE, SetupError

LOG_LINES = 25
# Runs in the target's interpreter: Python 3.10 has no TOML reader of its own, but every pip brings one.
READ_EXTRA = """
import json, sys
try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    print(json.dumps(tomllib.load(file)["project"]["optional-dependencies"][sys.argv[2]]))
"""
FIND_MISSING = """
import importlib.metadata, json, sys
known = {name.lower().replace("_", "-").replace(".", "-") for name in
         (found.metadata["Name"] for found in importlib.metadata.distributions()) if name}
print(json.dumps([name for name in json.loads(sys.argv[1]) if name not in known]))
"""


@dataclass(frozen=True)
class Pip:
    """pip of the interpreter `python`, writing to the file `log`."""

    python: Path
    log: Path

    def __call__(self, *arguments: str) -> None:
        """Run pip.

        Raises:
            SetupError: pip failed; the message ends with its last lines and says what can be done.
        """
        self.run("-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)

    def install(self, *arguments: str) -> None:
        """Install packages; byte code is left to their first import, which saves a third of the time."""
        self("install", "--no-compile", *arguments)

    def run(self, *arguments: str) -> None:
        """Run the interpreter with its output in the log.

        Raises: as calling does.
        """
        command = [str(self.python), *arguments]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            done = subprocess.run(command, env=_variables(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if done.returncode:
            raise SetupError(self._account())

    def _account(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
        free = shutil.disk_usage(self.log.parent).free / 1e9
        return "\n".join(
            [
                *(f"    {line}" for line in lines),
                f"Installing failed; the lines above end the log {self.log}. Worth a look:",
                f"- disk space: {free:.1f} GB are free there; 3 GB are needed, or 10 GB with PyTorch's CUDA build",
                "- network: behind a proxy or a mirror, configure pip as usual (pip.conf, PIP_INDEX_URL, PIP_PROXY)",
                "- Python: 3.10 to 3.13 are known to work; very new ones lack ready-built packages",
                f"- or set {FOLDER_VARIABLE} to a ComfyUI folder that works, and nothing is fetched at all",
            ]
        )


def _variables() -> dict[str, str]:
    variables = {
        **os.environ,
        "PIP_USER": "0",
        "PYTHONNOUSERSITE": "1",
    }  # a pip.conf with `user = true` fails in a venv
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH"):
        variables.pop(name, None)
    return variables


def requirements_in(text: str) -> list[str]:
    """Return the requirements of a requirements.txt's text, without comments and blank lines."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def name_of(requirement: str) -> str:
    """Return the normalised name of the package that a requirement asks for."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    if name is None:
        raise ValueError(f"{requirement!r} is no requirement")
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def extra_requirements(python: Path, pyproject: Path, extra: str) -> list[str]:
    """Return the requirements of one extra of a pyproject.toml, read by the interpreter `python`."""
    return _ask(python, READ_EXTRA, str(pyproject), extra)


def missing_packages(python: Path, requirements: Iterable[str]) -> list[str]:
    """Return the names of the required packages of which `python` has no version at all."""
    return _ask(python, FIND_MISSING, json.dumps(sorted({name_of(requirement) for requirement in requirements})))


def _ask(python: Path, script: str, *arguments: str) -> list[str]:
    try:
        done = subprocess.run([str(python), "-c", script, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise SetupError(f"{python} cannot be used: {error}") from error
    if done.returncode:
        raise SetupError(f"{python} cannot be used:\n{done.stderr.strip()}")
    return [str(item) for item in json.loads(done.stdout)]
