"""Prompt agreement: attributes that the prompt asks for, read back from the picture.

Who can read them is the caller's: `reader(image, faces)` gets the picture (H, W, 3) uint8 RGB and its faces, largest
first, in its pixels, and returns attribute -> value.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...faces.types import Face

AttributeReader = Callable[[np.ndarray, Sequence[Face]], Mapping[str, Any]]

DEFINITION = (
    "share of the attributes expected by the prompt that the reader finds in the picture with the expected value; what "
    "it cannot read counts as wrong"
)


def agreement(expected: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, float]:
    """1.0 or 0.0 for each expected attribute."""
    return {name: float(name in read and read[name] == value) for name, value in expected.items()}


def load_reader(text: str) -> AttributeReader:
    """The reader function that "module:function" names. Raises ValueError where there is none."""
    module, _, function = text.partition(":")
    try:
        reader = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the attribute reader {text!r} is no module:function that can be imported: {error}"
        ) from error
    if not callable(reader):
        raise ValueError(f"the attribute reader {text!r} is no function")
    return reader
