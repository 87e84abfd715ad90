"""What is measured: generated pictures, and the photos of the people they are to show."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..faces.pictures import open_picture

Source = np.ndarray | Path  # a picture (H, W, 3) uint8 RGB, or the file that holds one
Routing = Mapping[int, np.ndarray]  # layer -> (h, w) number of the identity, 255 for nobody, or (N, h, w) weights


@dataclass(frozen=True, eq=False)
class Reference:
    """One person: the photos that a generated face is compared to. Share one object among the pictures of a row.

    Attributes:
        person: a name, equal for all references to this person.
        photos: at least one; of each the largest face counts.
    """

    person: str
    photos: tuple[Source, ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """One generated picture.

    Attributes:
        name: unique within its row.
        row: the method or setting; scores are averaged over a row.
        image: the picture.
        references: who is to be seen, in the order of the identities; empty for a picture of nobody in particular.
        prompt: what was asked for.
        seed: of the generator.
        others: people who are not meant; their similarity to the largest face is listed, such as for interpolations.
        routing: which identity each position was drawn as, or the .npz with an array for each layer's number.
        masks: (N, H, W) where each identity is, in any resolution, or a file: a .png label map (0 nobody, 1 the first
            identity) or a .npz with "masks". None where only the faces that are found can tell.
        expected: attribute -> value that the prompt asks for.
    """

    name: str
    row: str
    image: Source
    references: tuple[Reference, ...] = ()
    prompt: str = ""
    seed: int | None = None
    others: tuple[Reference, ...] = ()
    routing: Routing | Path = field(default_factory=dict)
    masks: np.ndarray | Path | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)

    @property
    def people(self) -> tuple[str, ...]:
        """Names of the people who are meant."""
        return tuple(reference.person for reference in self.references)


def load_pixels(source: Source) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB itself. Raises ValueError for a file that cannot be read or another array."""
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or 0 in source.shape:
            raise ValueError(f"a picture must be (height, width, 3) uint8, got {source.shape} {source.dtype}")
        return source
    return open_picture(source)


def load_routing(picture: Picture) -> Routing:
    """The picture's routing maps by layer. Raises ValueError for a file that is damaged or names no layers."""
    if not isinstance(picture.routing, Path):
        return picture.routing
    arrays = _read_arrays(picture.routing)
    try:
        return {int(name): array for name, array in arrays.items()}
    except ValueError as error:
        raise ValueError(
            f"the routing maps {picture.routing} must be named by layer numbers such as 17, not {', '.join(arrays)}"
        ) from error


def load_masks(picture: Picture) -> np.ndarray | None:
    """The picture's masks (N, H, W). Raises ValueError for a damaged file and for another number than people."""
    masks, count = picture.masks, len(picture.references)
    if isinstance(masks, Path):
        masks = _read_masks(masks, count)
    if masks is not None and (masks.ndim != 3 or len(masks) != count):
        raise ValueError(
            f"the picture {picture.name!r} of the row {picture.row!r} has masks of shape {masks.shape} for {count} "
            "people; (people, height, width) is needed"
        )
    return masks


def _read_masks(path: Path, count: int) -> np.ndarray:
    if path.suffix.lower() == ".npz":
        arrays = _read_arrays(path)
        if "masks" not in arrays:
            raise ValueError(f'{path} holds {", ".join(arrays)}, but no array "masks"')
        return arrays["masks"]
    try:
        with Image.open(path) as file:
            labels = np.array(file)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the masks {path} could not be read: {error}") from error
    if labels.ndim != 2 or labels.max(initial=0) > count:
        raise ValueError(f"{path} must be a grey picture with the values 0 (nobody) to {count} (the last person)")
    return labels[None] == np.arange(1, count + 1)[:, None, None]


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"the arrays in {path} could not be read: {error}") from error
