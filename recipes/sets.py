"""The adapters' training sets in the trainer's own format, drawn and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..synthetic.captions import caption
from ..synthetic.disk import label_map, largest_first
from ..synthetic.people import train_people
from ..synthetic.scene import draw_scene
from ..trainer.data.records import FaceRecord, PictureRecord
from ..trainer.data.samples import CROP_SIZE, StoredSample, make_sample
from ..trainer.data.unfinished import UnfinishedSet
from .drawing import Drawn, draw, in_processes
from .recipe import Recipe

CHUNK = 200  # pictures of a shard
LARGER = 2  # pictures are drawn so much larger than they are trained at, for the faces' sake: photos are large
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
    """Write a set of pictures of so many train people, or go on; those of one person come with another photo's crop.

    The people are others than the base model's, so that the adapter does not meet pictures known by heart.
    """
    first = recipe.base_single if people == 1 else recipe.base_pairs
    target = UnfinishedSet(folder, {"recipe": recipe.name, "people": people, "count": count})
    if target.is_finished:
        return
    parts = [
        _Part(start, min(CHUNK, first + count - start), people, recipe.side * LARGER, recipe.level, str(device))
        for start in range(first + target.num_pictures, first + count, CHUNK)
    ]
    for samples in in_processes(_samples, parts):
        target.add(samples, {})
        say(f"{folder.name}: {target.num_pictures} of {count} pictures")
    target.finish()


def _samples(part: _Part) -> list[StoredSample]:
    seeds = train_people(part.count * part.people, part.first * part.people)
    groups = [seeds[row * part.people : (row + 1) * part.people] for row in range(part.count)]
    random = np.random.default_rng(part.first)
    pictures = _drawn(part, groups, 0)
    others = list(_drawn(part, groups, OTHER_PHOTO)) if part.people == 1 else []
    return [
        _sample(part.first + row, picture, [others[row].crop(0, CROP_SIZE, random)] if others else [], random)
        for row, picture in enumerate(pictures)
    ]


def _drawn(part: _Part, groups: list[tuple[int, ...]], seed: int) -> Iterator[Drawn]:
    size = (part.side, part.side * part.people)
    scenes = [draw_scene(group, group[0] + seed, size, part.level) for group in groups]
    return draw(scenes, part.device, supersampling=1)  # training shrinks them, which is supersampling enough


def _sample(number: int, picture: Drawn, others: list[np.ndarray], random: np.random.Generator) -> StoredSample:
    order = largest_first(picture.boxes)
    faces = tuple(
        FaceRecord(
            tuple(map(float, picture.boxes[row])),  # type: ignore[arg-type]
            tuple((float(x), float(y)) for x, y in picture.landmarks[row]),
            person=str(picture.scene.people[row].seed),
        )
        for row in order
    )
    crops = [picture.crop(row, CROP_SIZE, random) for row in order]
    record = PictureRecord(caption(picture.scene), faces, f"synthetic {picture.scene.seed}")
    return make_sample(f"{number:08d}", picture.pixels, record, crops, others, label_map(picture.masks[order]))
