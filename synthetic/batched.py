"""Dataclasses whose fields are tensors with one row per person."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="Batched")


class Batched:
    """Base of frozen dataclasses of tensors (P,) or (P, 3)."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def __getitem__(self: T, rows: Tensor | slice | list[int]) -> T:
        """The same for some rows, in the order given."""
        return self._map(lambda value: value[rows])

    def to(self: T, device: torch.device | str) -> T:
        """The same on another device."""
        return self._map(lambda value: value.to(device))

    def spread(self: T, axes: int) -> T:
        """The same with so many axes of length 1 behind; 2 broadcast over a picture's height and width."""
        return self._map(lambda value: value.reshape(*value.shape, *(1,) * axes))

    def _map(self: T, change) -> T:  # type: ignore[no-untyped-def]
        values = {field.name: change(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]
        return type(self)(**values)


def stacked(kind: type[T], rows: list[dict[str, float | tuple[float, float, float]]]) -> T:
    """Rows of plain numbers as one batched dataclass of that kind, float32 on the CPU."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in names})
