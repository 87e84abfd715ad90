"""Writes a folder of labelled pictures: plain files that the trainer's `prepare` reads.

Of every picture: `<key>.png`, `<key>.json` (caption, faces with box, landmarks, score and person, largest first) and
`<key>.mask.png` (8 bit: 0 nobody, k + 1 the head of face k). The record comes last and whole, so where there is one
the picture is complete, and a run that was stopped goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .captions import caption
from .people import people, split_of
from .randomness import stream
from .render import render
from .scene import MOST_PEOPLE, Scene, draw_scene

_SETTINGS = ".synthetic.json"
_AT_ONCE = 32


@dataclass(frozen=True)
class Wanted:
    """A set of pictures. size: height and width; first: number of the first person within the split."""

    people: int
    pictures_per_person: int
    size: tuple[int, int]
    seed: int
    people_per_picture: int = 1
    split: str = "train"
    first: int = 0
    level: str = "plain"

    def __post_init__(self) -> None:
        if not 1 <= self.people_per_picture <= min(MOST_PEOPLE, self.people):
            most = min(MOST_PEOPLE, self.people)
            raise ValueError(f"people per picture must be 1 to {most}, not {self.people_per_picture}")
        if self.pictures_per_person < 1 or self.seed < 0:
            raise ValueError("there must be at least one picture per person, and the seed must not be negative")


def scenes_of(wanted: Wanted) -> Iterator[tuple[str, Scene]]:
    """Keys and scenes of a set; everybody is in `pictures_per_person` of them, with others drawn by chance.

    Where the people do not divide evenly among the pictures, the last picture of a round borrows from its beginning.
    Raises ValueError for an unknown split, level or size.
    """
    everybody = people(wanted.split, wanted.people, wanted.first)
    number = 0
    for turn in range(wanted.pictures_per_person):
        random = stream(f"company {turn}", wanted.seed)
        order = sorted(everybody, key=lambda _: random.random())
        for start in range(0, len(order), wanted.people_per_picture):
            company = (order + order)[start : start + wanted.people_per_picture]
            yield f"{number:07d}", draw_scene(company, (wanted.seed << 32) + number, wanted.size, wanted.level)
            number += 1


def write(
    folder: Path, wanted: Wanted, device: torch.device | str = "cpu", progress: Callable[[int, int], None] | None = None
) -> int:
    """Write what is missing of a set of pictures; returns how many were written.

    progress: told how many pictures are done, of how many. Raises ValueError where the folder holds anything else:
    another set or somebody's files.
    """
    next(scenes_of(wanted))  # a wrong split, level or size is refused before anything is written
    _claim(folder, wanted)
    total = wanted.pictures_per_person * -(-wanted.people // wanted.people_per_picture)
    written = 0
    batch: list[tuple[str, Scene]] = []
    for done, (key, scene) in enumerate(scenes_of(wanted), start=1):
        if not (folder / f"{key}.json").exists():
            batch.append((key, scene))
        if len(batch) == _AT_ONCE or (done == total and batch):
            _write_batch(folder, batch, device)
            written += len(batch)
            batch = []
            if progress:
                progress(done, total)
    return written


def _claim(folder: Path, wanted: Wanted) -> None:
    """Make the folder this set's own, or refuse it."""
    text = json.dumps(asdict(wanted), indent=1)
    settings = folder / _SETTINGS
    if settings.exists():
        if settings.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder} holds another set, made with {settings.name}; choose another folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and holds something else; choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(settings, text.encode())


def _write_batch(folder: Path, batch: list[tuple[str, Scene]], device: torch.device | str) -> None:
    rendered = render([scene for _, scene in batch], device)
    pictures = rendered.pixels()
    masks, landmarks, boxes = rendered.masks.cpu(), rendered.landmarks.cpu(), rendered.boxes.cpu()
    for row, (key, scene) in enumerate(batch):
        order = largest_first(boxes[row, : len(scene.people)].numpy())
        faces = [
            {
                "box": _rounded(boxes[row, person]),
                "landmarks": _rounded(landmarks[row, person]),
                "score": 1.0,
                "person": f"{split_of(scene.people[person].seed)}-{scene.people[person].seed}",
            }
            for person in order
        ]
        record = {"caption": caption(scene), "faces": faces, "source": f"likeness.synthetic scene {scene.seed}"}
        _save_picture(folder / f"{key}.png", pictures[row])
        _save_picture(folder / f"{key}.mask.png", label_map(masks[row, order].numpy()))
        _write_whole(folder / f"{key}.json", json.dumps(record).encode())


def largest_first(boxes: np.ndarray) -> list[int]:
    """Numbers of the boxes (N, 4) by falling area, as the trainer's format wants faces; equal ones keep their order."""
    return np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable").tolist()


def label_map(masks: np.ndarray) -> np.ndarray:
    """Masks (N, H, W), 0 to 1, as labels (H, W) uint8: 0 nobody, k + 1 where mask k covers most and at least half."""
    winner = masks.argmax(axis=0).astype(np.uint8) + 1
    return np.where(masks.max(axis=0) >= 0.5, winner, 0).astype(np.uint8)


def _rounded(values: torch.Tensor) -> list:
    return np.round(values.numpy().astype(float), 3).tolist()


def _save_picture(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, compress_level=3)


def _write_whole(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
