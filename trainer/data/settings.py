"""What a run says about its pictures: the `data` part of a training configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .cropping import Size

_MULTIPLE = 8  # the VAE's scale: latents have whole numbers of cells


class DataSettings(BaseModel):
    """Pictures of a training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="The set: a folder that `prepare` or `cache` made, or a plain folder of its format.")
    resolution: int | tuple[Size, ...] = Field(
        512,
        description="Side of square training pictures in pixels, or a list of [width, height]: every picture then goes "
        "to the one nearest to its own aspect ratio, and all pictures of a step have one size. The paper gives none; "
        "512 is what the base model was trained with.",
    )
    faces: tuple[int, int] = Field(
        (1, 1),
        description="Fewest and most faces of a picture that is used: 1, 1 for stage I (spec 11), such as 2, 6 for "
        "stage II.",
    )
    cut_faces: Literal["refuse", "use"] = Field(
        "refuse",
        description="What to do with pictures whose faces do not all fit into the training size: leave them out, or "
        "use them with the faces that are left, if those are a number that `faces` allows.",
    )
    bucket_by_faces: bool = Field(
        False,
        description="Make every step of pictures with equally many faces, instead of mixing them with padding.",
    )
    mask: Literal["box", "true"] = Field(
        "box",
        description="Where a face may be, for the routing loss: its bounding box as in the paper, or the label map "
        "stored with the picture.",
    )
    use_cached_latents: bool = Field(
        True,
        description="Take latents from the set's cache where it has them for this resolution, else encode pictures.",
    )
    use_cached_features: bool = Field(
        True, description="Take face features from the set's cache where it has them, else encode the aligned crops."
    )
    workers: int = Field(
        2, ge=0, le=256, description="Processes that read pictures, for each training process. 0 reads in that itself."
    )
    prefetch: int = Field(4, ge=1, le=64, description="Batches that each of these processes reads ahead.")

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The training sizes as (width, height) in pixels."""
        return sizes_of(self.resolution)

    @field_validator("resolution")
    @classmethod
    def _check_resolution(cls, value: int | tuple[Size, ...]) -> int | tuple[Size, ...]:
        check_sizes(sizes_of(value))
        return value

    @field_validator("faces")
    @classmethod
    def _check_faces(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError(f"fewest and most faces must be 1 <= fewest <= most, got {value}")
        return value


def sizes_of(resolution: int | tuple[Size, ...]) -> tuple[Size, ...]:
    """A resolution setting as sizes (width, height), in rising order: their order in the list decides nothing."""
    return ((resolution, resolution),) if isinstance(resolution, int) else tuple(sorted(resolution))


def check_sizes(sizes: tuple[Size, ...]) -> None:
    """Raise ValueError unless there are sizes, all different, with sides that latents can have."""
    if not sizes:
        raise ValueError("the resolution must be a side in pixels or a list of [width, height] that is not empty")
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"the resolution lists a size twice: {list(sizes)}")
    for size in sizes:
        if min(size) < _MULTIPLE or any(side % _MULTIPLE for side in size):
            raise ValueError(f"training sizes must be multiples of {_MULTIPLE} pixels, got {size[0]} x {size[1]}")
