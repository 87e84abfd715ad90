"""Runs of the real command line on the tiny world: in this process, or in one that can be killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from likeness.trainer.run.logs import LOG, read_log

SMALL = {
    "batch.global_size": 4,
    "batch.per_device": 4,
    "steps": 6,
    "optimiser.warmup_steps": 2,
    "samples.every": 0,
    "checkpoints.every": 3,
    "logging.progress_bar": False,
    "logging.tensorboard": False,
    "model.sizes": "{rank: 2, width: 16, depth: 1, heads: 1, head_width: 16, tokens: 4}",
}
PATIENCE = 120  # seconds until a run in another process is given up


@dataclass(frozen=True)
class TinyRuns:
    """Runs in a folder of their own; `arguments` makes the command line, keyword `a__b=1` meaning --set a.b=1."""

    folder: Path
    stage_settings: Mapping[int, Mapping[str, Any]]

    def arguments(self, name: str, stage: int = 1, *options: str, **settings: Any) -> list[str]:
        given = {key.replace("__", "."): value for key, value in settings.items()}
        values = {**SMALL, **self.stage_settings[stage], "output": self.folder / name, **given}
        sets = [part for key, value in values.items() if value is not None for part in ("--set", f"{key}={value}")]
        return ["train", f"tiny-stage{stage}", *sets, *options]

    def run(self, name: str, stage: int = 1, *options: str, **settings: Any) -> int:
        """The command in this process; returns its exit code."""
        from likeness.trainer.__main__ import main

        return main(self.arguments(name, stage, *options, **settings))

    def losses(self, name: str) -> dict[int, float]:
        return {row["step"]: row["loss"] for row in read_log(self.folder / name / LOG)}

    def checkpoints(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.folder / name / "checkpoints").iterdir())


def tiny_runs(tiny_world: Any, folder: Path, stage_one_file: Path) -> TinyRuns:
    common = {
        "base.model": tiny_world.base,
        "base.clip_vision": tiny_world.clip_vision,
        "base.backbone": tiny_world.backbone,
    }
    stages = {
        1: {**common, "data.path": tiny_world.portraits},
        2: {**common, "data.path": tiny_world.groups, "base.stage_one": stage_one_file},
    }
    return TinyRuns(folder, stages)


@pytest.fixture
def runs(tiny_world: Any, tmp_path: Path, stage_one_file: Path) -> TinyRuns:
    """Runs on the tiny world below a new folder."""
    return tiny_runs(tiny_world, tmp_path, stage_one_file)


@pytest.fixture(scope="session")
def stage_one_file(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A faceid file for the tiny world whose LoRA is not without effect."""
    import torch
    from likeness.adapters.uniportrait import save_faceid
    from likeness.trainer.model.base_model import load_base_model
    from likeness.trainer.model.encoders import load_face_encoders
    from likeness.trainer.model.settings import AdapterSizes, ModelSettings
    from likeness.trainer.model.weights import new_adapter

    base = load_base_model(tiny_world.base, "cpu", torch.float32)
    encoders = load_face_encoders(tiny_world.backbone, tiny_world.clip_vision, "cpu", torch.float32)
    sizes = AdapterSizes(rank=2, width=16, depth=1, heads=1, head_width=16, tokens=4)
    adapter = new_adapter(base.unet, encoders.sizes, 0, ModelSettings(sizes=sizes))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapter.lora_single.named_parameters():
        if ".up." in name:
            parameter.data.normal_(std=0.05, generator=generator)
    path = tmp_path_factory.mktemp("stage_one") / "uniportrait-faceid_sd15.safetensors"
    save_faceid(path, adapter)
    return path


@pytest.fixture(scope="session")
def unbroken(
    tiny_world: Any, stage_one_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], TinyRuns]:
    """`unbroken(stage)` is a finished run named "one" of STEPS steps in a single process, passes of the whole batch."""
    made: dict[int, TinyRuns] = {}

    def of(stage: int) -> TinyRuns:
        if stage not in made:
            runs = tiny_runs(tiny_world, tmp_path_factory.mktemp("unbroken"), stage_one_file)
            assert runs.run("one", stage) == 0
            made[stage] = runs
        return made[stage]

    return of


@dataclass
class Started:
    """A command in another process; its output goes to `output`."""

    process: Any
    output: Path

    def wait(self) -> int:
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"still running after {PATIENCE} s:\n{self.text()}"
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds while the process is running."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.is_alive(), f"ended too early:\n{self.text()}"
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.005)

    def text(self) -> str:
        return self.output.read_text("utf-8", "replace") if self.output.exists() else ""


def _run_command(arguments: list[str], environment: dict[str, str], output: Path, before: Callable[[], None]) -> None:
    import torch
    from accelerate import PartialState

    torch.set_num_threads(1)
    PartialState._reset_state()  # what the tests' own process knows of other processes
    logging.getLogger().handlers.clear()  # pytest's
    os.environ.update(environment)
    with open(output, "a", buffering=1, encoding="utf-8") as file:
        sys.stderr = sys.stdout = file
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        before()
        from likeness.trainer.__main__ import main

        code = main(arguments)
        file.flush()
        os._exit(code)


def _nothing() -> None:
    pass


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """`start(arguments, environment={}, before=...)` runs the command in a real process, ended with the test.

    The process is forked where the system can: it has its own memory and dies like any other, but need not import the
    libraries again, which takes longer than everything else here.
    """
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    started: list[Started] = []

    def start(
        arguments: list[str], environment: Mapping[str, str] | None = None, before: Callable[[], None] = _nothing
    ) -> Started:
        output = tmp_path / f"output{len(started)}.txt"
        process = multiprocessing.get_context(method).Process(
            target=_run_command, args=(arguments, dict(environment or {}), output, before)
        )
        process.start()
        started.append(Started(process, output))
        return started[-1]

    yield start
    for one in started:
        if one.process.is_alive():
            one.process.kill()
        one.process.join()
