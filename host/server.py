"""A headless ComfyUI with this pack, on a free local port and in a base folder of its own."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .client import ComfyClient
from .environment import ROOT, ComfyUI
from .links import link_folder

logger = logging.getLogger("likeness.host")

PACK_NAME = "ComfyUI-Likeness"
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The first visit would open the templates dialog over the canvas, and old tabs would come back between runs.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en", "Comfy.Workflow.Persist": False}
# Exit status 0: this interpreter's torch can use an accelerator, so ComfyUI needs no --cpu.
ACCELERATOR_PROBE = (
    "import sys, torch; xpu = getattr(torch, 'xpu', None); "
    "sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available() or (xpu and xpu.is_available())))"
)

# Runs ComfyUI's main.py and ends it when our end of its standard input closes: a server never outlives its owner,
# not even one that was killed.
START = """
import os, runpy, sys, threading

def end_with_owner():
    os.read(0, 1)  # returns when the other end is closed: nothing is ever written
    os._exit(1)

threading.Thread(target=end_with_owner, daemon=True).start()
sys.path[:] = [os.getcwd(), *(entry for entry in sys.path if entry)]
sys.argv[:] = ["main.py", *sys.argv[1:]]
runpy.run_path("main.py", run_name="__main__")
"""


class ServerError(RuntimeError):
    """ComfyUI did not start, stopped by itself, or could not load one of the packs; the message ends with its log."""


class ComfyServer:
    """Context manager: a running ComfyUI with this pack and `packs` linked into its custom_nodes.

    `folder` becomes the base directory (models, custom_nodes, input, output, temp, user) and keeps the log,
    `comfyui.log`. `models` is a further models folder that the loaders search too; `arguments` go to ComfyUI as they
    are; `threads` sets OMP_NUM_THREADS (1 keeps times stable where other processes are busy).

    Raises:
        ServerError: on entering, with the end of the log.
    """

    def __init__(
        self,
        comfyui: ComfyUI,
        folder: Path,
        packs: Sequence[Path] = (),
        arguments: Sequence[str] = (),
        models: Path | None = None,
        threads: int | None = None,
        port: int | None = None,
        patience: float = 300.0,
    ) -> None:
        self.comfyui = comfyui
        self.folder = folder.resolve()
        self.packs = {PACK_NAME: ROOT} | {pack.name: pack for pack in packs}
        self.arguments = list(arguments)
        self.models = models
        self.threads = threads
        self.port = port or _free_port()
        self.patience = patience
        self.log = self.folder / "comfyui.log"
        self.client = ComfyClient(f"http://127.0.0.1:{self.port}")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.client.url

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("ComfyUI has not been started: use ComfyServer in a with statement")
        return self._process

    def __enter__(self) -> ComfyServer:
        if _answers(self.port):  # another ComfyUI there would pass for ours
            raise ServerError(f"port {self.port} is taken by another program: choose another port")
        self._lay_out_folder()
        command = self._command()
        logger.info("starting ComfyUI on port %d, log in %s", self.port, self.log)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.comfyui.folder,
                env=self._variables(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C reaches us alone, and we stop the server in order
            )
        try:
            self._wait_until_ready()
            self._check_packs()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; harmless when it has ended already."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def log_tail(self, num_lines: int = 60) -> str:
        """Return the last lines of ComfyUI's log."""
        return "\n".join(self._log_text().splitlines()[-num_lines:])

    def _log_text(self) -> str:
        return ANSI_COLOUR.sub("", self.log.read_text("utf-8", errors="replace"))

    def _lay_out_folder(self) -> None:
        for name in ("models", "custom_nodes", "input", "output", "temp", "user/default"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name, pack in self.packs.items():
            link_folder(pack, self.folder / "custom_nodes" / name)
        settings = self.folder / "user" / "default" / "comfy.settings.json"
        if not settings.exists():
            settings.write_text(json.dumps(SETTINGS), "utf-8")

    def _command(self) -> list[str]:
        command = [str(self.comfyui.python), "-c", START, "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.folder), "--disable-api-nodes"]
        command += ["--database-url", "sqlite:///:memory:"]  # two servers at once would lock a shared file
        if not any(argument.startswith("--use-") for argument in self.arguments):
            command += ["--use-pytorch-cross-attention"]  # 2-3 times faster than ComfyUI's choice on a CPU
        if not {"--cpu", "--directml"} & set(self.arguments) and not self._has_accelerator():
            command += ["--cpu"]
        if self.models is not None:
            command += ["--extra-model-paths-config", str(self._model_paths(self.models))]
        return command + self.arguments

    def _has_accelerator(self) -> bool:
        probe = [str(self.comfyui.python), "-c", ACCELERATOR_PROBE]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    def _model_paths(self, models: Path) -> Path:
        names = sorted(child.name for child in models.iterdir() if child.is_dir())
        paths = {"base_path": str(models.resolve()), **{name: name for name in names}}
        file = self.folder / "extra_model_paths.yaml"
        file.write_text(json.dumps({"likeness": paths}, indent=2), "utf-8")  # every JSON text is YAML too
        return file

    def _variables(self) -> dict[str, str]:
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        variables.pop("PYTHONSAFEPATH", None)  # main.py imports its neighbours
        if self.threads is not None:
            variables["OMP_NUM_THREADS"] = str(self.threads)
        return variables

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.patience
        while not self.client.is_ready():
            status = self.process.poll()
            if status is not None:
                raise ServerError(f"ComfyUI stopped with exit status {status} while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI did not answer within {self.patience:.0f} s:\n{self.log_tail()}")
            time.sleep(0.1)

    def _check_packs(self) -> None:
        failed = re.findall(r"\(IMPORT FAILED\): (.+)", self._log_text())
        names = sorted({Path(path.strip()).name for path in failed} & set(self.packs))
        if names:
            raise ServerError(f"ComfyUI could not load {' and '.join(names)}:\n{self.log_tail()}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
