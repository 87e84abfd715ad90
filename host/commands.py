"""`python run.py demo | test | bench | comfyui`: find or set up a ComfyUI, then run what was asked for."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .console import say
from .environment import (
    CACHE_VARIABLE,
    FOLDER_VARIABLE,
    PYTHON_VARIABLE,
    ROOT,
    ComfyUI,
    SetupError,
    cache_folder,
    named_comfyui,
)
from .links import link_folder
from .managed import install_extra, managed_comfyui
from .packages import extra_requirements, missing_packages, requirements_in
from .server import ComfyServer, ServerError

DESCRIPTION = f"""\
commands:
  demo     make pictures of people with the built-in tiny models; `demo --help` lists its options
  test     ruff, mypy and pytest; more arguments go to pytest: test -k golden
  bench    measure; `bench --help` lists its options
  comfyui  start ComfyUI with this pack for use in a browser; more arguments go to ComfyUI: comfyui --lowvram

The first run sets up ComfyUI and PyTorch in a cache folder: some minutes, 2 GB of disk (6 GB with CUDA).

environment variables:
  {FOLDER_VARIABLE}  use this ComfyUI folder; nothing is set up then
  {PYTHON_VARIABLE}   its Python; else its venv or .venv, a python_embeded beside it, or the Python that runs this
  {CACHE_VARIABLE}    the cache folder, now {cache_folder()}
"""
# Runs in the ComfyUI's interpreter. The link's folder comes first on the path and the current one not at all: there
# `nodes` or `demo` would be found without their package. A build with isolated settings ignores PYTHONPATH, hence this.
START_MODULE = """
import runpy, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.path[:] = [sys.argv[1], *(entry for entry in sys.path if entry)]
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# Extras of pyproject.toml that a command needs; the demo measures likeness.
EXTRAS = {"demo": "evaluation", "test": "dev", "bench": "dev"}
INTERRUPTED = 130
DEFAULT_PORT = 8188


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="run.py", epilog=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("demo", "test", "bench", "comfyui"), help="what to run, see below")
    command = parser.parse_args(arguments[:1]).command
    rest = list(arguments[1:])
    if command in ("test", "comfyui") and set(rest) & {"-h", "--help"}:
        parser.print_help()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped, too
    try:
        comfyui = _find_comfyui(EXTRAS.get(command))
        if command == "test":
            return _test(comfyui, rest)
        if command == "comfyui":
            return _serve(comfyui, rest)
        return _run_module(comfyui, "likeness.demo" if command == "demo" else "likeness.benchmarks", rest, Path.cwd())
    except (SetupError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _find_comfyui(extra: str | None) -> ComfyUI:
    """Return the user's ComfyUI, checked for the packages of an extra, or a managed one, completed with them."""
    own = named_comfyui()
    comfyui = own or managed_comfyui(cache_folder())
    if extra is None:
        return comfyui
    wanted = extra_requirements(comfyui.python, ROOT / "pyproject.toml", extra)
    if own is None:
        install_extra(comfyui, extra, wanted)
        return comfyui
    wanted += requirements_in((ROOT / "requirements.txt").read_text("utf-8"))
    missing = missing_packages(comfyui.python, wanted)
    if missing:
        raise SetupError(
            f"The Python of your ComfyUI lacks {', '.join(missing)}. Your environment is left as it is; either\n"
            f'  "{comfyui.python}" -m pip install {" ".join(missing)}\n'
            f"or unset {FOLDER_VARIABLE} to have a separate ComfyUI set up."
        )
    return comfyui


def _test(comfyui: ComfyUI, pytest_arguments: Sequence[str]) -> int:
    packages = _importable(ROOT)
    configuration = str(ROOT / "pyproject.toml")
    mypy = ["--config-file", configuration, "--cache-dir", str(ROOT / ".mypy_cache"), "--package", "likeness"]
    checks = [
        ("ruff check", "ruff", ["check", "."], ROOT),
        ("ruff format --check", "ruff", ["format", "--check", "."], ROOT),
        ("mypy", "mypy", mypy, packages),  # it takes no folder named with a hyphen, but follows the link
        ("pytest", "pytest", list(pytest_arguments), ROOT),
    ]
    worst = 0
    for title, module, arguments, folder in checks:
        say(f"== {title}")
        status = _run_module(comfyui, module, arguments, folder, threads=1)  # steady times beside other processes
        if status == INTERRUPTED:
            return status
        if status and module != "pytest":  # whose summary is to be the last line
            say(f"{title} failed")
        worst = max(worst, status)
    return worst


def _serve(comfyui: ComfyUI, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    options, rest = parser.parse_known_args(arguments)
    folder = cache_folder() / "workspace"
    say(f"Starting ComfyUI; its models, input and output folders are in {folder}")
    models = comfyui.folder / "models"
    with ComfyServer(comfyui, folder, arguments=rest, models=models, port=options.port) as server:
        say(f"Open {server.url} in a browser. Ctrl+C stops ComfyUI. Log: {server.log}")
        return server.process.wait()


def _run_module(
    comfyui: ComfyUI, module: str, arguments: Sequence[str], folder: Path, threads: int | None = None
) -> int:
    """Run a module with the ComfyUI's interpreter, `likeness` importable and this ComfyUI named to what it starts."""
    packages = str(_importable(ROOT))
    path = os.pathsep.join(entry for entry in (packages, os.environ.get("PYTHONPATH", "")) if entry)
    variables = {**os.environ, "PYTHONPATH": path}
    variables |= {FOLDER_VARIABLE: str(comfyui.folder), PYTHON_VARIABLE: str(comfyui.python)}
    if threads is not None:
        variables.setdefault("OMP_NUM_THREADS", str(threads))
    command = [str(comfyui.python), "-c", START_MODULE, packages, module, *arguments]
    process = subprocess.Popen(command, cwd=folder, env=variables)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl+C has reached it as well
        return INTERRUPTED
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _importable(root: Path) -> Path:
    """Return a folder in which the checkout stands as `likeness`, whatever its own name is."""
    folder = cache_folder() / "checkouts" / hashlib.sha256(str(root).encode()).hexdigest()[:8]
    link_folder(root, folder / "likeness")
    return folder
