"""The batches of a training run: read, cut, put together, the same for any number of workers and any restart."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..batch import Batch, FaceFeatures
from .cache_file import LATENT_LOGVAR, LATENT_MEAN, intrinsic_name, other_name, structure_name
from .cropping import CropWindow, box_masks
from .picture_set import PictureSet, Sample
from .samples import CROP_SIZE, other_member
from .sampling import StepSampler, seed_bits
from .selection import select_pictures, training_window
from .settings import DataSettings

logger = logging.getLogger("likeness.trainer")


class BatchLoader:
    """Puts any pictures of a set together as a batch; all must have one training size.

    Whether it gives latents or pixels, features or crops, depends on the settings and the set's cache alone.
    """

    def __init__(self, pictures: PictureSet, settings: DataSettings, seed: int) -> None:
        self.pictures = pictures
        self.settings = settings
        self._seed = seed
        cache = pictures.cache
        same_sizes = cache is not None and set(cache.sizes) == set(settings.sizes)
        has_latents = cache is not None and cache.latents is not None
        self.gives_latents = settings.use_cached_latents and has_latents and same_sizes
        self.gives_features = settings.use_cached_features and cache is not None and cache.features is not None
        if cache is not None and settings.use_cached_latents and has_latents and not same_sizes:
            logger.warning("the cached latents are not used: they are for %s, not %s", cache.sizes, settings.sizes)
        self._has_others = bool(pictures.with_member(other_member(0)).any())

    def load(self, numbers: Sequence[int], positions: Sequence[int], num_faces: int) -> Batch:
        """The batch of these pictures, with room for `num_faces` faces each; positions: global sample positions.

        Raises ValueError naming the file for damaged pictures, records and caches.
        """
        items = [
            self._load_one(int(number), int(position)) for number, position in zip(numbers, positions, strict=True)
        ]
        valid = np.zeros((len(items), num_faces), bool)
        for row, item in zip(valid, items, strict=True):
            row[: len(item.masks)] = True
        return Batch(
            keys=tuple(item.key for item in items),
            positions=torch.tensor(np.array(positions, np.int64)),
            captions=tuple(item.caption for item in items),
            valid=torch.from_numpy(valid),
            masks=_padded([item.masks for item in items], num_faces),
            pixels=None if self.gives_latents else _pixels([item.picture for item in items]),
            latents=_stacked([item.latents for item in items]) if self.gives_latents else None,
            crops=None if self.gives_features else _padded([item.crops for item in items], num_faces),
            features=self._features(items, num_faces) if self.gives_features else None,
            **self._others(items),
        )

    def _load_one(self, number: int, position: int) -> _Item:
        sample = self.pictures.sample(number)
        window = training_window(self.pictures, number, self.settings)
        cached = sample.cached() if self.gives_latents or self.gives_features else {}
        other = self._choose_other(sample, position)
        crops = other_crop = None
        if not self.gives_features:
            crops = np.stack([sample.crop(face) for face in window.kept])
            other_crop = None if other is None else sample.other_crop(other)
        return _Item(
            key=sample.key,
            caption=sample.record.caption,
            masks=self._masks(sample, window),
            picture=None if self.gives_latents else window.cut_picture(sample.picture()),
            latents=_latents(sample, cached) if self.gives_latents else None,
            crops=crops,
            intrinsic=_cached(sample, cached, map(intrinsic_name, window.kept)) if self.gives_features else None,
            structure=_cached(sample, cached, map(structure_name, window.kept)) if self.gives_features else None,
            other_crop=other_crop,
            other_intrinsic=_cached(sample, cached, [other_name(other)])[0]
            if self.gives_features and other is not None
            else None,
        )

    def _choose_other(self, sample: Sample, position: int) -> int | None:
        """Which other photograph of the only person stands by at this position."""
        if not self._has_others or self.pictures.num_faces[sample.number] != 1 or not sample.num_others:
            return None
        return seed_bits(self._seed, "other photo", position) % sample.num_others

    def _masks(self, sample: Sample, window: CropWindow) -> np.ndarray:
        """(k, h, w) bool: where each kept face may be."""
        if self.settings.mask == "true":
            labels = sample.labels()
            if labels is None:
                raise ValueError(f"{sample.where('mask.png')} is missing")
            return window.cut_labels(labels) == np.array(window.kept, np.int16)[:, None, None] + 1
        boxes = self.pictures.boxes(sample.number)
        return box_masks(window.cut_boxes([boxes[face] for face in window.kept]), window.size)

    def _features(self, items: Sequence[_Item], num_faces: int) -> FaceFeatures:
        return FaceFeatures(
            _padded([item.intrinsic for item in items], num_faces),
            _padded([item.structure for item in items], num_faces),
        )

    def _others(self, items: Sequence[_Item]) -> dict[str, Tensor]:
        """The fields of a batch about other photographs, for sets that have any."""
        if not self._has_others:
            return {}
        name = "other_intrinsic" if self.gives_features else "other_crops"
        found = [item.other_intrinsic if self.gives_features else item.other_crop for item in items]
        shape: tuple[int, ...] = (CROP_SIZE, CROP_SIZE, 3)
        dtype: np.dtype = np.dtype(np.uint8)
        if self.gives_features:
            first = items[0].intrinsic
            assert first is not None
            shape, dtype = first.shape[1:], first.dtype
        rows = [np.zeros(shape, dtype) if other is None else other for other in found]
        return {"has_other": torch.tensor([other is not None for other in found]), name: _stacked(rows)}


@dataclass(frozen=True)
class _Item:
    """One picture of a batch, k faces; either picture or latents, either crops or features."""

    key: str
    caption: str
    masks: np.ndarray  # (k, h, w) bool
    picture: np.ndarray | None  # (h, w, 3) uint8
    latents: np.ndarray | None  # (2, c, h', w')
    crops: np.ndarray | None  # (k, 224, 224, 3) uint8
    intrinsic: np.ndarray | None  # (k, 49, C4)
    structure: np.ndarray | None  # (k, 256, Cs)
    other_crop: np.ndarray | None
    other_intrinsic: np.ndarray | None


class TrainingBatches:
    """The batches of one process of a run, from any step on, endless.

    Each step takes `global_batch` = batch_size x accumulation x world pictures of one size; this process gives its
    share of them as `accumulation` batches of `batch_size`. The sample of a global position never depends on world,
    accumulation or workers.
    """

    def __init__(
        self,
        pictures: PictureSet,
        settings: DataSettings,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        start_step: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """pin_memory: for training on CUDA. Raises ValueError when the set cannot give such batches, saying why."""
        assert 0 <= rank < world, (rank, world)
        self.global_batch = batch_size * accumulation * world
        self.loader = BatchLoader(pictures, settings, seed)
        selection = select_pictures(pictures, settings, self.global_batch)
        sampler = StepSampler(selection.groups, self.global_batch, seed)
        self.steps_per_epoch = sampler.steps_per_epoch
        self.num_pictures = int((selection.num_faces > 0).sum())
        self._settings = settings
        self._start = start_step * accumulation
        self._parts = _Parts(self.loader, sampler, selection.num_faces, rank, world, accumulation)
        self._pin_memory = pin_memory

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `start_step` on: `accumulation` of them for each step."""
        workers = self._settings.workers
        loader = DataLoader(
            self._parts,
            batch_size=None,
            sampler=_CountFrom(self._start),
            num_workers=workers,
            prefetch_factor=self._settings.prefetch if workers else None,
            collate_fn=_as_it_is,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # its own, so that iterating leaves the global one where it was
        )
        return iter(loader)


class _Parts(Dataset):
    """The batches of one process by number: step x accumulation + part of the step."""

    def __init__(
        self, loader: BatchLoader, sampler: StepSampler, num_faces: np.ndarray, rank: int, world: int, accumulation: int
    ) -> None:
        self._loader = loader
        self._sampler = sampler
        self._num_faces = num_faces
        self._rank, self._world, self._accumulation = rank, world, accumulation

    def __getitem__(self, number: int) -> Batch:
        step, part = divmod(number, self._accumulation)
        numbers, positions = self._sampler.share(step, self._rank, self._world)
        own = slice(part * len(numbers) // self._accumulation, (part + 1) * len(numbers) // self._accumulation)
        # Room for the most faces of the whole step: the same shapes in every process.
        most = int(self._num_faces[self._sampler.pictures(step)].max())
        return self._loader.load(numbers[own].tolist(), positions[own].tolist(), most)


class _CountFrom(Sampler[int]):
    """All whole numbers from a first one."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _latents(sample: Sample, cached: dict[str, np.ndarray]) -> np.ndarray:
    return _cached(sample, cached, [LATENT_MEAN, LATENT_LOGVAR])


def _cached(sample: Sample, cached: dict[str, np.ndarray], names: Iterator[str] | Sequence[str]) -> np.ndarray:
    try:
        return np.stack([cached[name] for name in names])
    except KeyError as error:
        raise ValueError(f"{sample.where('cache.safetensors')} lacks {error}; make the cache again") from error


def _stacked(rows: Sequence[np.ndarray | None]) -> Tensor:
    return torch.from_numpy(np.stack([row for row in rows if row is not None]))


def _padded(rows: Sequence[np.ndarray | None], count: int) -> Tensor:
    """Arrays (k, ...) as (B, count, ...), zeros beyond each one's own."""
    present = [row for row in rows if row is not None]
    padded = np.zeros((len(present), count, *present[0].shape[1:]), present[0].dtype)
    for target, row in zip(padded, present, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def _pixels(pictures: Sequence[np.ndarray | None]) -> Tensor:
    """Pictures (h, w, 3) uint8 as (B, 3, h, w) float32 in [-1, 1]."""
    return _stacked(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()
