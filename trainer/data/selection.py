"""Which pictures of a set a run uses, and at which size."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np

from .cropping import CropWindow, crop_window, nearest_size
from .picture_set import PictureSet
from .samples import MASK_MEMBER
from .settings import DataSettings

logger = logging.getLogger("likeness.trainer")


@dataclass(frozen=True)
class Selection:
    """The pictures of a run.

    groups: picture numbers that may share a batch, each (n,) int64. size_numbers: (pictures of the set,) the place of
    each picture's size in the settings. num_faces: (pictures of the set,) faces that its window keeps; 0 unused.
    """

    groups: tuple[np.ndarray, ...]
    size_numbers: np.ndarray
    num_faces: np.ndarray


def select_pictures(pictures: PictureSet, settings: DataSettings, batch: int) -> Selection:
    """Choose and group pictures by the settings; `batch` is what a step takes over all processes.

    What is left out is logged with the reason. Raises ValueError when the set is empty, no picture has a number of
    faces that the settings allow, too few pictures are left for a batch, or true masks are asked for and missing.
    """
    if not len(pictures):
        raise ValueError(f"the training set {pictures.path} holds no pictures; prepare it from other pictures")
    sizes, (fewest, most) = settings.sizes, settings.faces
    size_numbers = np.zeros(len(pictures), np.int32)
    num_faces = np.zeros(len(pictures), np.int32)
    num_cut = 0
    for number in range(len(pictures)):
        window = training_window(pictures, number, settings)
        size_numbers[number] = sizes.index(window.size)
        is_cut = len(window.kept) < pictures.num_faces[number]
        num_cut += is_cut and fewest <= pictures.num_faces[number] <= most
        if fewest <= len(window.kept) <= most and (not is_cut or settings.cut_faces == "use"):
            num_faces[number] = len(window.kept)
    if num_cut and settings.cut_faces == "refuse":
        logger.warning("%d pictures are left out: their faces do not all fit into the training size", num_cut)
    _require_some(pictures, settings, num_faces, num_cut)
    if settings.mask == "true":
        _require_masks(pictures, num_faces)
    by_faces = num_faces if settings.bucket_by_faces else np.zeros_like(num_faces)
    keys = list(zip(size_numbers.tolist(), by_faces.tolist(), strict=True))
    groups = _groups(keys, num_faces > 0)
    _report_small(groups, settings, batch)
    return Selection(tuple(groups.values()), size_numbers, num_faces)


def training_window(pictures: PictureSet, number: int, settings: DataSettings) -> CropWindow:
    """The window of one picture at the training size nearest to its shape."""
    width, height = pictures.sizes[number].tolist()
    sizes = settings.sizes
    return crop_window((width, height), pictures.boxes(number), sizes[nearest_size((width, height), sizes)])


def _groups(keys: list[tuple[int, int]], used: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    members: dict[tuple[int, int], list[int]] = {}
    for number in np.nonzero(used)[0].tolist():
        members.setdefault(keys[number], []).append(number)
    return {key: np.array(members[key], np.int64) for key in sorted(members)}


def _require_some(pictures: PictureSet, settings: DataSettings, num_faces: np.ndarray, num_cut: int) -> None:
    if num_faces.any():
        return
    counts = Counter(pictures.num_faces.tolist())
    found = ", ".join(f"{counts[number]} with {number}" for number in sorted(counts))
    fewest, most = settings.faces
    wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
    cut = f"; {num_cut} lose faces when cut to the training size (see `cut_faces`)" if num_cut else ""
    raise ValueError(
        f"no picture of {pictures.path} can be used with `faces` {wanted}: by number of faces there are {found}{cut}. "
        "Stage I needs pictures with one face, stage II with several: prepare a set with --faces accordingly"
    )


def _require_masks(pictures: PictureSet, num_faces: np.ndarray) -> None:
    lacking = (num_faces > 0) & ~pictures.with_member(MASK_MEMBER)
    if lacking.any():
        raise ValueError(
            f'`mask` is "true", but {lacking.sum()} pictures of {pictures.path} have no label map, such as '
            f'{pictures.keys[int(np.argmax(lacking))]}; set `mask` to "box" or prepare the set with masks'
        )


def _report_small(groups: dict[tuple[int, int], np.ndarray], settings: DataSettings, batch: int) -> None:
    """Warn of groups that cannot fill a batch; raise ValueError when none can."""
    small = {key: len(group) for key, group in groups.items() if len(group) < batch}
    if not small:
        return
    listed = ", ".join(
        f"{count} of {settings.sizes[size][0]} x {settings.sizes[size][1]}" + (f" with {faces} faces" if faces else "")
        for (size, faces), count in small.items()
    )
    if len(small) == len(groups):
        raise ValueError(
            f"too few pictures: a step takes {batch} (batch size x accumulation x processes) of one size, "
            f"and there are {listed}. Use a smaller batch, fewer sizes in `resolution`, or more pictures"
        )
    logger.warning("pictures of sizes too rare to fill a batch of %d are left out: %s", batch, listed)
