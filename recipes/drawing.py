"""Pictures of the synthetic world, drawn in as many processes as there are cores, with faces cut out as if detected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch

from ..faces.alignment import align
from ..synthetic.render import render
from ..synthetic.scene import Scene

LANDMARK_ERROR = 0.03  # of the eye distance: how far a detector's points lie off, so that encoders see such crops

Part = TypeVar("Part")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Drawn:
    """A picture (H, W, 3) uint8 and its people's masks (N, H, W), landmarks (N, 5, 2) and boxes (N, 4)."""

    scene: Scene
    pixels: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    boxes: np.ndarray

    def crop(self, person: int, size: int, random: np.random.Generator) -> np.ndarray:
        """Somebody's face, aligned by landmarks with a detector's error."""
        points = self.landmarks[person]
        error = LANDMARK_ERROR * float(np.linalg.norm(points[1] - points[0]))
        return align(self.pixels, points + random.normal(0, error, points.shape), size)


def draw(scenes: Sequence[Scene], device: str, supersampling: int = 2, batch: int = 25) -> Iterator[Drawn]:
    """Scenes of one size with as many people each."""
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        rendered = render(some, device, supersampling)
        arrays = (array.cpu().numpy() for array in (rendered.masks, rendered.landmarks, rendered.boxes))
        for row in zip(some, rendered.pixels(), *arrays, strict=True):
            yield Drawn(*row)


def in_processes(make: Callable[[Part], Made], parts: Sequence[Part]) -> Iterator[Made]:
    """make(part) for all parts, in order."""
    if parts:
        context = get_context("spawn")
        with ProcessPoolExecutor(mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(make, parts)
