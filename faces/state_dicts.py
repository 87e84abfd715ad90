"""What the networks of this room share when they take their weights from a flat dict of tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_keys(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], fault: str, advice: str) -> None:
    """Raise ValueError naming the tensors that are missing, unknown or of another shape; fault and advice frame it."""
    missing = [key for key in expected if key not in given]
    unknown = [key for key in given if key not in expected]
    shaped = [
        f"{key} is {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shaped))
        if keys
    ]
    if faults:
        raise ValueError(f"{fault}: tensors {'; '.join(faults)}. {advice}")
