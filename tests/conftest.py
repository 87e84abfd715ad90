"""Fixtures shared by every room: reference tensors of the published implementations, and a real ComfyUI."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

BROWSER_VARIABLE = "LIKENESS_BROWSER"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge", "microsoft-edge")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
PATIENCE = 90_000  # ms; a page takes 5 s on a quiet machine


@dataclass(frozen=True)
class Golden:
    """One file of reference tensors.

    `tensors` holds every tensor as stored, by its full key; `metadata` the file's metadata with JSON values parsed.
    PuLID's and UniID's files name tensors `weights.<key>`, `in.<name>` and `out.<name>`: they are read as if they were
    `weights/<key>`, `inputs/<name>` and `expected/<name>`, so that one set of methods serves all systems. Tensors that
    UniID's files only define by a formula are there like the others.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Weights below `weights/<prefix>` without that prefix: float32 (stored as float16), integers as they are."""
        return self.part("weights/" + prefix)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors below a prefix, without it; as for `weights`, for files that name their networks at the top."""
        return {key: _float32(value) for key, value in self._below(prefix).items()}

    def formula(self, key: str, shape: Sequence[int], mean: float = 0.0, amplitude: float = 1.0) -> torch.Tensor:
        """A tensor that is defined by its name, in the words of the README of UniID's files; float32."""
        wide, mask = np.uint64, np.uint64(0xFFFFFFFF)
        seed = wide((zlib.crc32(key.encode()) + self.metadata["config"]["formula_seed"]) % 2**32)
        h = (np.arange(math.prod(shape), dtype=wide) * wide(2654435761) + seed) & mask
        h ^= h >> wide(16)
        h = (h * wide(2246822519)) & mask
        h ^= h >> wide(13)
        h = (h * wide(3266489917)) & mask
        h ^= h >> wide(16)
        drawn = 2.0 * h.astype(np.float64) / 2**32 - 1.0
        return torch.from_numpy((mean + amplitude * drawn).astype(np.float32)).reshape(tuple(shape))

    def cases(self) -> list[str]:
        return sorted(self.metadata.get("cases", {}))

    def inputs(self, case: str | None = None) -> dict[str, torch.Tensor]:
        """Inputs of one case, or without a case the inputs that the whole file shares."""
        return self._below(f"cases/{case}/inputs/" if case else "inputs/")

    def expected(self, case: str | None = None) -> dict[str, torch.Tensor]:
        return self._below(f"cases/{case}/expected/" if case else "expected/")

    def _below(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _amplitude(text: str) -> float:
    """ "0.5" or "sqrt(3/512)"."""
    root = re.fullmatch(r"sqrt\((\d+)/(\d+)\)", text)
    return math.sqrt(int(root[1]) / int(root[2])) if root else float(text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _slashed(key: str) -> str:
    first, _, rest = key.partition(".")
    folder = {"weights": "weights", "in": "inputs", "out": "expected"}.get(first)
    return f"{folder}/{rest}" if folder and rest else key


def _outputs_in(file: Any, prefix: str) -> list[str]:
    names = (_slashed(key).removeprefix("expected/") for key in file.keys())  # noqa: SIM118
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _golden_folder() -> Path:
    return Path(os.environ.get("LIKENESS_GOLDEN") or Path(__file__).parent / "golden")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked `golden(system, name)` that takes `golden_case` once for each case of that reference file.

    With a third argument, `golden(system, name, "pred.")`, cases are the expected tensors whose names begin so.
    """
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None or "golden_case" not in metafunc.fixturenames:
        return
    system, name, *outputs = marker.args
    path = _golden_folder() / system / f"{name}.safetensors"
    cases = []
    if path.is_file():
        with safe_open(path, "pt") as file:
            cases = _outputs_in(file, *outputs) if outputs else sorted(json.loads(file.metadata()["cases"]))
    cases = cases or ["missing"]  # the test then fails
    metafunc.parametrize("golden_case", cases, ids=[f"golden-{system}-{name}-{case}" for case in cases])


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], Golden]:
    """`golden(system, name)` reads <folder>/<system>/<name>.safetensors; a missing file fails the test.

    The folder is the environment variable LIKENESS_GOLDEN where it is set, else tests/golden.
    """
    folder = _golden_folder()

    def read(system: str, name: str) -> Golden:
        path = folder / system / f"{name}.safetensors"
        if not path.is_file():
            pytest.fail(f"the reference file {path} is missing")
        with safe_open(path, "pt") as file:
            metadata = {key: _parsed(value) for key, value in (file.metadata() or {}).items()}
            found = Golden(path, {_slashed(key): file.get_tensor(key) for key in file.keys()}, metadata)  # noqa: SIM118
        for key, defined in metadata.get("config", {}).get("formula_tensors", {}).items():
            found.tensors[_slashed(key)] = found.formula(key, defined["shape"], 0.0, _amplitude(defined["amp"]))
        return found

    return read


@pytest.fixture(scope="session")
def recogniser_model() -> Callable[..., bytes]:
    """`recogniser_model(side=112, batch="batch")`: an ONNX file whose embedding is the mean colours of quarters."""
    pytest.importorskip("onnxruntime")
    from likeness.demo.tiny_recogniser import recogniser

    return recogniser


@pytest.fixture(scope="session")
def installed_comfyui() -> Any:
    """The ComfyUI that LIKENESS_COMFYUI names; `python run.py test` always names one."""
    from likeness.host.environment import FOLDER_VARIABLE, named_comfyui

    found = named_comfyui()
    if found is None:
        pytest.skip(f"set {FOLDER_VARIABLE} to a ComfyUI folder, or start the tests with `python run.py test`")
    return found


@pytest.fixture(scope="session")
def comfyui_path(installed_comfyui: Any) -> Path:
    """The source folder of ComfyUI, importable in this process and set to the CPU: `import comfy...` works now."""
    if str(installed_comfyui.folder) not in sys.path:
        sys.path.insert(0, str(installed_comfyui.folder))
    from comfy.cli_args import args

    # Before comfy.model_management is imported: it decides about both while it is.
    args.cpu = True
    args.use_pytorch_cross_attention = True  # two to three times faster on a CPU than its default
    return installed_comfyui.folder


@pytest.fixture(scope="session")
def comfy_server(installed_comfyui: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running ComfyUI with this pack and the demo's tiny models: a ComfyServer; talk through its `client`."""
    from likeness.host.environment import ROOT
    from likeness.host.server import ComfyServer

    folder = tmp_path_factory.mktemp("comfyui")
    with ComfyServer(installed_comfyui, folder, packs=[ROOT / "demo" / "models_pack"], threads=1) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo's tiny models with random weights, written once: a TinyModels."""
    from likeness.demo.tiny_models import write_tiny_models

    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_pulid_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo's tiny models for PuLID, written once: a TinyPulidModels."""
    from likeness.demo.tiny_pulid import write_tiny_pulid_models

    return write_tiny_pulid_models(tmp_path_factory.mktemp("pulid-models"))


@pytest.fixture(scope="session")
def tiny_uniid_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo's tiny files of UniID, written once: a TinyUniidModels."""
    from likeness.demo.tiny_uniid import write_tiny_uniid_models

    return write_tiny_uniid_models(tmp_path_factory.mktemp("uniid-models"))


@pytest.fixture(scope="module")
def models_pack(comfyui_path: Path) -> Iterator[ModuleType]:
    """The demo's models pack, loaded into this process as ComfyUI does, and taken out again."""
    import comfy.supported_models
    from likeness.host.environment import ROOT

    spec = importlib.util.spec_from_file_location("tiny_models_pack", ROOT / "demo" / "models_pack" / "__init__.py")
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pack  # as ComfyUI does; the pack's own modules are found below it
    spec.loader.exec_module(pack)
    known = list(comfy.supported_models.models)

    async def load() -> None:
        await (await pack.comfy_entrypoint()).on_load()

    asyncio.run(load())
    yield pack
    comfy.supported_models.models[:] = known
    for name in [name for name in sys.modules if name.split(".")[0] == spec.name]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser context without a window. Not for longer than a module: while it lives, asyncio.run fails."""
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright drives the browser")
    named = os.environ.get(BROWSER_VARIABLE)
    executable = named or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(
            f"no browser: set {BROWSER_VARIABLE} to a Chromium, or have one of {', '.join(BROWSERS)} on the path"
        )
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=executable,
            headless=True,
            viewport={"width": 1500, "height": 950},
            args=list(QUIET),
        )
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()
