"""The adapters' training sets in the trainer's own format, drawn and cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ..faces.alignment import align
from ..synthetic.captions import caption
from ..synthetic.people import train_people
from ..synthetic.render import render
from ..synthetic.scene import Scene, draw_scene
from ..trainer.data.records import FaceRecord, PictureRecord
from ..trainer.data.samples import CROP_SIZE, StoredSample, make_sample
from ..trainer.data.shards import SetWriter
from .recipe import Recipe

CHUNK = 200
LARGER = 2  # pictures are drawn so much larger than they are trained at, for the faces' sake: photos are large
LANDMARK_ERROR = 0.03  # of the eye distance, as a detector's
OTHER_PHOTO = 900_000_000  # added to a picture's seed for another one of the same person


@dataclass(frozen=True)
class _Part:
    """A chunk of a set: pictures of `people` people each, from picture number `first` on."""

    first: int
    count: int
    people: int
    side: int
    level: str
    device: str


def write_set(
    recipe: Recipe, folder: Path, people: int, count: int, device: torch.device, say: Callable[[str], None]
) -> None:
    """Write a set of pictures of so many train people; those of one person come with another photo's crop.

    The people are others than the base model's, so that the adapter does not meet pictures known by heart.
    """
    shutil.rmtree(folder, ignore_errors=True)  # a set that was broken off
    first = recipe.base_single if people == 1 else recipe.base_pairs
    parts = [
        _Part(start, min(CHUNK, first + count - start), people, recipe.side * LARGER, recipe.level, str(device))
        for start in range(first, first + count, CHUNK)
    ]
    prepared = {"recipe": recipe.name, "people": people, "count": count}
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        SetWriter(folder, prepared) as writer,
    ):
        for number, samples in enumerate(pool.map(_samples, parts), 1):
            for sample in samples:
                writer.add(sample)
            say(f"{folder.name}: {min(number * CHUNK, count)} of {count} pictures")


def _samples(part: _Part) -> list[StoredSample]:
    seeds = train_people(part.count * part.people, part.first * part.people)
    groups = [seeds[row * part.people : (row + 1) * part.people] for row in range(part.count)]
    random = np.random.default_rng(part.first)
    pictures = _drawn([_scene(part, group, group[0]) for group in groups], part.device)
    again = [_scene(part, group, group[0] + OTHER_PHOTO) for group in groups] if part.people == 1 else []
    others = _drawn(again, part.device)
    return [
        _sample(part.first + row, picture, [_crop(others[row], 0, random)] if others else [], random)
        for row, picture in enumerate(pictures)
    ]


@dataclass(frozen=True)
class _Picture:
    scene: Scene
    pixels: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    boxes: np.ndarray


def _scene(part: _Part, people: tuple[int, ...], seed: int) -> Scene:
    return draw_scene(people, seed, (part.side, part.side * part.people), part.level)


def _drawn(scenes: list[Scene], device: str, batch: int = 25) -> list[_Picture]:
    pictures: list[_Picture] = []
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        drawn = render(some, device, supersampling=1)  # training shrinks them, which is supersampling enough
        pixels = (drawn.images * 255).round().to(torch.uint8)
        arrays = (array.cpu().numpy() for array in (pixels, drawn.masks, drawn.landmarks, drawn.boxes))
        rows = zip(some, *arrays, strict=True)
        pictures.extend(_Picture(*row) for row in rows)
    return pictures


def _sample(number: int, picture: _Picture, others: list[np.ndarray], random: np.random.Generator) -> StoredSample:
    sizes = (picture.boxes[:, 2] - picture.boxes[:, 0]) * (picture.boxes[:, 3] - picture.boxes[:, 1])
    order = np.argsort(-sizes, kind="stable")  # the format wants the largest face first
    faces = tuple(
        FaceRecord(
            tuple(map(float, picture.boxes[row])),  # type: ignore[arg-type]
            tuple((float(x), float(y)) for x, y in picture.landmarks[row]),
            person=str(picture.scene.people[row].seed),
        )
        for row in order
    )
    labels = np.zeros(picture.pixels.shape[:2], np.uint8)
    for label, row in enumerate(order, 1):
        labels[picture.masks[row] > 0.5] = label
    crops = [_crop(picture, row, random) for row in order]
    record = PictureRecord(caption(picture.scene), faces, f"synthetic {picture.scene.seed}")
    return make_sample(f"{number:08d}", picture.pixels, record, crops, others, labels)


def _crop(picture: _Picture, row: int, random: np.random.Generator) -> np.ndarray:
    points = picture.landmarks[row]
    error = LANDMARK_ERROR * float(np.linalg.norm(points[1] - points[0]))
    return align(picture.pixels, points + random.normal(0, error, points.shape), CROP_SIZE)
