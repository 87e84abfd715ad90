"""Pictures of the synthetic world for the networks that come before the adapters, drawn once and kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..synthetic.captions import caption
from ..synthetic.identity import Identity, identities
from ..synthetic.people import train_people
from ..synthetic.scene import draw_scene
from .drawing import draw, in_processes
from .encoders import Portraits
from .recipe import Recipe

CHUNK = 1000  # pictures that are drawn, and written, at once
CROP = 112


@dataclass(frozen=True)
class Pictures:
    """uint8 (n, H, W, 3) and what a caption says of each."""

    pixels: Tensor
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Chunk:
    """One file of pictures: which people, how large."""

    path: Path
    first_person: int
    count: int
    people_per_picture: int
    side: int
    level: str
    device: str


def draw_pictures(
    recipe: Recipe, folder: Path, people: int, count: int, device: torch.device, say: Callable[[str], None]
) -> Pictures:
    """Pictures of so many people each, every one of other train people; what is on disk already is not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [
        _Chunk(
            folder / f"{people}-people-{start:07d}.npz", start * people, min(CHUNK, count - start), people,
            recipe.side, recipe.level, str(device),
        )
        for start in range(0, count, CHUNK)
    ]  # fmt: skip
    _write_missing(_write_chunk, chunks, say, f"pictures of {people}")
    pixels, captions = [], []
    for chunk in chunks:
        with np.load(chunk.path, allow_pickle=False) as file:
            pixels.append(torch.from_numpy(file["pixels"]))
            captions.extend(json.loads(str(file["captions"])))
    return Pictures(torch.cat(pixels), tuple(captions))


def draw_portraits(recipe: Recipe, folder: Path, device: torch.device, say: Callable[[str], None]) -> Portraits:
    """Aligned crops of train people, several of each, with what makes each of them who they are."""
    folder.mkdir(parents=True, exist_ok=True)
    size = max(1, CHUNK // recipe.encoder_photos)
    chunks = [
        _Chunk(
            folder / f"portraits-{start:07d}.npz", start, min(size, recipe.encoder_people - start),
            recipe.encoder_photos, 2 * recipe.side, recipe.level, str(device),
        )
        for start in range(0, recipe.encoder_people, size)
    ]  # fmt: skip
    _write_missing(_write_portraits, chunks, say, "portraits")
    crops = torch.cat([torch.from_numpy(np.load(chunk.path, allow_pickle=False)["crops"]) for chunk in chunks])
    return Portraits(crops, traits_of(identities(train_people(recipe.encoder_people))))


def traits_of(identity: Identity) -> Tensor:
    """What makes people differ, one standardised row (P, t) each; a trait that never varies is 0."""
    rows = torch.cat([getattr(identity, field.name).reshape(len(identity), -1) for field in fields(identity)], dim=1)
    spread = rows.std(0)
    return torch.where(spread > 1e-6, (rows - rows.mean(0)) / spread.clamp_min(1e-6), 0.0)


def _write_chunk(chunk: _Chunk) -> int:
    per = chunk.people_per_picture
    seeds = train_people(chunk.count * per, chunk.first_person)
    size = (chunk.side, chunk.side * per)
    scenes = [
        draw_scene(seeds[row * per : (row + 1) * per], seeds[row * per], size, chunk.level)
        for row in range(chunk.count)
    ]
    pixels = [picture.pixels for picture in draw(scenes, chunk.device, batch=50)]
    _save(chunk.path, pixels=np.stack(pixels), captions=json.dumps([caption(scene) for scene in scenes]))
    return chunk.count


def _write_portraits(chunk: _Chunk) -> int:
    seeds = train_people(chunk.count, chunk.first_person)
    random = np.random.default_rng(chunk.first_person)
    photos = chunk.people_per_picture
    scenes = [
        draw_scene((seed,), 1_000_003 * (1 + photo) + seed, (chunk.side, chunk.side), chunk.level)
        for seed in seeds
        for photo in range(photos)
    ]
    crops = [picture.crop(0, CROP, random) for picture in draw(scenes, chunk.device, supersampling=1, batch=50)]
    _save(chunk.path, crops=np.stack(crops).reshape(len(seeds), photos, CROP, CROP, 3))
    return chunk.count


def _save(path: Path, **arrays: object) -> None:
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)  # type: ignore[arg-type]
    os.replace(part, path)


def _write_missing(write: Callable[[_Chunk], int], chunks: list[_Chunk], say: Callable[[str], None], what: str) -> None:
    """Write the chunks that are not there yet; each is written whole or not at all."""
    missing = [chunk for chunk in chunks if not chunk.path.exists()]
    done, total = 0, sum(chunk.count for chunk in missing)
    for count in in_processes(write, missing):
        done += count
        say(f"{what}: {done} of {total}")
