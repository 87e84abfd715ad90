"""From a set to the same set with the encoders' outputs beside every picture, so that training runs no encoder.

Letters: B pictures, H, W pixels, c, h, w of a latent, k crops, C4 and Cs widths of the features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..batch import FaceFeatures
from .cache_file import LATENT_LOGVAR, LATENT_MEAN, encode_cache, intrinsic_name, other_name, structure_name
from .cropping import Size, crop_window, nearest_size
from .index import CacheInfo
from .picture_set import PictureSet, Sample, open_dataset
from .unfinished import UnfinishedSet

T = TypeVar("T")
Tensors = dict[str, np.ndarray]
Loaded = tuple[list[T], list[np.ndarray]]  # items and what was loaded for each


class LatentEncoder(Protocol):
    """A VAE's encoder: pixels (B, 3, H, W) float32 in [-1, 1] -> mean and log variance, (B, c, h, w) each, unscaled."""

    fingerprint: str

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]: ...


class FeatureEncoder(Protocol):
    """Face encoders: crops (k, 224, 224, 3) uint8 -> intrinsic (k, 49, C4) and structure (k, 256, Cs) features."""

    fingerprint: str

    def features(self, crops: Tensor) -> FaceFeatures: ...


@dataclass(frozen=True)
class CacheSettings:
    """source: the set. out: the new one. sizes: training sizes (width, height). batch_size: of one encoding."""

    source: Path
    out: Path
    sizes: tuple[Size, ...]
    batch_size: int = 8
    samples_per_shard: int = 500
    threads: int = 2


def make_cache(settings: CacheSettings, latents: LatentEncoder | None, features: FeatureEncoder | None) -> int:
    """Write the set `settings.out` with cached tensors, or go on where it was left; returns its number of pictures.

    Without one of the encoders, that kind of tensors is taken over from the source's own cache, if it has one.
    Raises ValueError for damaged pictures by name, for features that float16 cannot hold, when the disk is full (what
    is whole is kept), and when the folder holds a set made otherwise.
    """
    source = open_dataset(settings.source)
    info = _cache_info(settings, source, latents, features)
    plan = {
        "command": "cache",
        "fingerprint of the source": source.fingerprint,
        "sizes": info.sizes,
        "latents": info.latents,
        "features": info.features,
        "samples_per_shard": settings.samples_per_shard,
        "source prepared": dict(source.prepared),
    }
    target = UnfinishedSet(settings.out, plan)
    if target.is_finished:
        return len(source)
    done = target.num_pictures
    with (
        ThreadPoolExecutor(settings.threads) as pool,
        tqdm(desc="pictures", total=len(source), initial=done, disable=None) as bar,
    ):
        for first in range(done, len(source), settings.samples_per_shard):
            numbers = range(first, min(first + settings.samples_per_shard, len(source)))
            shard = _Shard([source.sample(number) for number in numbers], settings, pool)
            if latents is not None:
                shard.add_latents(latents)
            if features is not None:
                shard.add_features(features)
            target.add(shard.stored(latents is None, features is None), {})
            bar.update(len(numbers))
    target.finish(info)
    return len(source)


def _cache_info(
    settings: CacheSettings, source: PictureSet, latents: LatentEncoder | None, features: FeatureEncoder | None
) -> CacheInfo:
    old = source.cache
    return CacheInfo(
        settings.sizes if latents is not None or old is None else old.sizes,
        latents.fingerprint if latents is not None else old.latents if old is not None else None,
        features.fingerprint if features is not None else old.features if old is not None else None,
    )


class _Shard:
    """The samples of one shard to be, and the tensors made for them so far."""

    def __init__(self, samples: Sequence[Sample], settings: CacheSettings, pool: ThreadPoolExecutor) -> None:
        self._samples = samples
        self._settings = settings
        self._pool = pool
        self._tensors: list[Tensors] = [{} for _ in samples]

    def add_latents(self, encode: LatentEncoder) -> None:
        """Encode all pictures, those of one size together."""
        sizes = self._settings.sizes
        by_size: dict[int, list[int]] = {}
        for place, sample in enumerate(self._samples):
            width, height = sample.pictures.sizes[sample.number].tolist()
            by_size.setdefault(nearest_size((width, height), sizes), []).append(place)
        for size, places in sorted(by_size.items()):
            for part, pictures in self._loaded(places, partial(self._cut, sizes[size])):
                pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
                for place, mean, logvar in zip(part, *map(_arrays, encode(pixels)), strict=True):
                    self._tensors[place] |= {LATENT_MEAN: mean, LATENT_LOGVAR: logvar}

    def add_features(self, encoder: FeatureEncoder) -> None:
        """Encode the crops of all faces and of all other photographs."""
        crops = [(place, face, True) for place, s in enumerate(self._samples) for face in range(len(s.record.faces))]
        crops += [(place, number, False) for place, s in enumerate(self._samples) for number in range(s.num_others)]
        for part, images in self._loaded(crops, self._crop):
            found = encoder.features(torch.from_numpy(np.stack(images)))
            rows = zip(part, _arrays(found.intrinsic), _arrays(found.structure), strict=True)
            for (place, number, own), intrinsic, structure in rows:
                if own:
                    self._tensors[place] |= {intrinsic_name(number): intrinsic, structure_name(number): structure}
                else:
                    self._tensors[place][other_name(number)] = intrinsic

    def stored(self, keep_latents: bool, keep_features: bool) -> list[Any]:
        """The samples with their tensors; the kinds kept come from the samples' old caches."""
        stored = []
        for sample, tensors in zip(self._samples, self._tensors, strict=True):
            old = sample.cached() if sample.pictures.cache is not None else {}
            kept = {
                name: value
                for name, value in old.items()
                if (keep_latents if name in (LATENT_MEAN, LATENT_LOGVAR) else keep_features)
            }
            for name, value in tensors.items():
                if not np.isfinite(value).all():
                    raise ValueError(f"{sample.where(name)}: the encoder gave values that float16 cannot hold, or none")
            stored.append(sample.stored(encode_cache({**kept, **tensors})))
        return stored

    def _cut(self, size: Size, place: int) -> np.ndarray:
        sample = self._samples[place]
        width, height = sample.pictures.sizes[sample.number].tolist()
        return crop_window((width, height), sample.pictures.boxes(sample.number), size).cut_picture(sample.picture())

    def _crop(self, crop: tuple[int, int, bool]) -> np.ndarray:
        place, number, own = crop
        return self._samples[place].crop(number) if own else self._samples[place].other_crop(number)

    def _loaded(self, items: Sequence[T], load: Callable[[T], np.ndarray]) -> Iterator[Loaded[T]]:
        """Batches of items with what was loaded for them, the next one being loaded meanwhile."""
        waiting: deque[tuple[list[T], list[Future[np.ndarray]]]] = deque()
        for first in range(0, len(items), self._settings.batch_size):
            part = list(items[first : first + self._settings.batch_size])
            waiting.append((part, [self._pool.submit(load, item) for item in part]))
            if len(waiting) > 1:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


def _result(pair: tuple[list[T], list[Future[np.ndarray]]]) -> Loaded[T]:
    return pair[0], [future.result() for future in pair[1]]


def _arrays(rows: Tensor) -> Iterable[np.ndarray]:
    """The rows of a tensor as float16 arrays; half precision holds means, variances and features to about 1e-3."""
    return rows.to("cpu", torch.float16).numpy()
