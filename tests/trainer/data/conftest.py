"""Photographs with real faces on disk, and small sets with drawn ones."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from likeness.trainer.data.index import CacheInfo
from likeness.trainer.data.records import FaceRecord, PictureRecord
from likeness.trainer.data.samples import make_sample
from PIL import Image, ImageEnhance

SPOTS = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.3, 0.8), (0.7, 0.8)])


@pytest.fixture(scope="session")
def photographs() -> Callable[[Path, int], list[Path]]:
    """`photographs(folder, count)`: distinct JPEG pictures of one real face, about 240 px, with captions beside them.

    Sections, mirror images and other brightness of one photograph (NASA, public domain).
    """
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).crop((100, 0, 370, 330))

    def write(folder: Path, count: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(5)
        paths = []
        for number in range(count):
            x, y = random.integers(0, 40, 2).tolist()
            picture = astronaut.crop((x, y, x + 230, y + 260)).rotate(float(random.uniform(-12, 12)))
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else picture
            picture = ImageEnhance.Brightness(picture).enhance(float(random.uniform(0.7, 1.3)))
            paths.append(folder / f"photo{number:02d}.jpg")
            picture.save(paths[-1], quality=92)
            paths[-1].with_suffix(".txt").write_text(f"an astronaut, picture {number}")
        return paths

    return write


@pytest.fixture(scope="session")
def face() -> Callable[..., FaceRecord]:
    """`face(x1, y1, x2, y2, person=None)` with landmarks inside the box."""

    def make(x1: float, y1: float, x2: float, y2: float, person: str | None = None) -> FaceRecord:
        points = (SPOTS * (x2 - x1, y2 - y1) + (x1, y1)).round(2)
        return FaceRecord((x1, y1, x2, y2), tuple(map(tuple, points.tolist())), 0.9, person)

    return make


@dataclass(frozen=True)
class Drawn:
    """What a drawn sample is to hold: size of the picture, boxes of its faces, and extras."""

    size: tuple[int, int] = (64, 64)
    boxes: Sequence[tuple[float, float, float, float]] = ((20, 16, 44, 48),)
    person: str | None = None
    num_others: int = 0
    mask: bool = False
    cache: bytes | None = None


@pytest.fixture(scope="session")
def drawn() -> type[Drawn]:
    return Drawn


@pytest.fixture(scope="session")
def write_set(face: Callable[..., FaceRecord], store_set: Callable[..., Path]) -> Callable[..., Path]:
    """`write_set(folder, [drawn(...), ...], per_shard=4, cache=None)` writes noise pictures with given faces."""

    def write(folder: Path, samples: Sequence[Drawn], per_shard: int = 4, cache: CacheInfo | None = None) -> Path:
        random = np.random.default_rng(0)
        stored = []
        for number, sample in enumerate(samples):
            width, height = sample.size
            faces = tuple(face(*box, person=sample.person) for box in sample.boxes)
            mask = np.zeros((height, width), np.uint8)
            for label, (x1, y1, x2, y2) in enumerate(sample.boxes, start=1):
                mask[int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2] = label
            whole = make_sample(
                f"s{number:04d}",
                random.integers(0, 255, (height, width, 3), np.uint8),
                PictureRecord(f"caption {number}", faces, "drawn"),
                others=random.integers(0, 255, (sample.num_others, 224, 224, 3), np.uint8),
                mask=mask if sample.mask else None,
            )
            stored.append(whole if sample.cache is None else replace(whole, cache=sample.cache))
        return store_set(folder, stored, cache, {"by": "test"}, per_shard)

    return write


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.Popen[str]]:
    """`run_python(script, *arguments)` starts a process in which `likeness` is importable."""

    def start(script: str, *arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", script, *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/"
        )

    return start


@pytest.fixture
def forked() -> Callable[[Callable[[], Any]], tuple[int, str]]:
    """`forked(function)` runs it in a child process; returns the exit code (1: ValueError) and the error's text."""

    def run(function: Callable[[], Any]) -> tuple[int, str]:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            code = 77
            try:
                function()
                code = 0
            except ValueError as error:
                os.write(writer, str(error).encode())
                code = 1
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as message:
            text = message.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text

    return run


@pytest.fixture
def killed_at() -> Callable[[int, Callable[[], Any]], Callable[[], None]]:
    """`killed_at(limit, function)`: the function, ending its process (code 9) in place of a rename after the limit.

    Everything that is written becomes visible by a rename. For use in a forked process only.
    """

    def wrap(limit: int, function: Callable[[], Any]) -> Callable[[], None]:
        rename, count = os.replace, itertools.count(1)

        def rename_or_die(*paths: Any) -> None:
            if next(count) > limit:
                os._exit(9)
            rename(*paths)

        def run() -> None:
            os.replace = rename_or_die
            function()

        return run

    return wrap
