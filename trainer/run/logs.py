"""What a run writes down while it goes: every step's loss exactly, TensorBoard curves, a progress bar."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_log(path: Path, step: int) -> None:
    """Drop what a log says about steps after `step`: they will be done again."""
    rows = [row for row in read_log(path) if row["step"] <= step]
    if path.is_file():
        part = path.with_name(f".{path.name}.part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        os.replace(part, path)


class RunLog:
    """The main process's log of a run from a step on: `log.jsonl`, TensorBoard and the bar."""

    def __init__(self, folder: Path, step: int, steps: int, every: int, tensorboard: bool, bar: bool) -> None:
        cut_log(folder / LOG, step)
        self._file = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        self._every = every
        self._writer = _writer(folder / "tensorboard", step) if tensorboard else None
        self._bar = tqdm(initial=step, total=steps, unit="step", disable=None if bar else True, dynamic_ncols=True)
        self._since = time.perf_counter()
        self._images = 0

    def step(self, step: int, values: Mapping[str, float], images: int) -> None:
        """Note a step's values; floats are written so that reading gives the same bits."""
        row = {"step": step, **{name: _finite(value) for name, value in values.items()}}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._images += images
        self._bar.update()
        if step % self._every == 0:
            self._report(step, values)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Show an (H, W, 3) uint8 RGB picture in TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, pixels, step, dataformats="HWC")
            self._writer.flush()

    def restart_clock(self) -> None:
        """Leave what came since the last report (a checkpoint, sample pictures) out of the speed."""
        self._since, self._images = time.perf_counter(), 0

    def close(self) -> None:
        """Close the file, TensorBoard and the bar."""
        self._file.close()
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _report(self, step: int, values: Mapping[str, float]) -> None:
        speed = self._images / max(time.perf_counter() - self._since, 1e-9)
        self.restart_clock()
        self._bar.set_postfix({"loss": f"{values['loss']:.4f}", "images/s": f"{speed:.2f}"}, refresh=False)
        if self._writer is not None:
            for name, value in {**values, "images_per_second": speed}.items():
                self._writer.add_scalar(f"train/{name}", value, step)
            self._writer.flush()


def _finite(value: float) -> float | str:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else str(value)


def _writer(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
