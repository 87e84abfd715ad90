"""State dicts from local files, without running anything that a file holds."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a PyTorch state dict, or a TorchScript archive, on the CPU.

    A dict below "state_dict" and a common prefix "module." are unwrapped; what is no tensor is left out.
    Raises ValueError for a file that is missing, damaged, unsafe to read or holds no tensors.
    """
    path = Path(path)
    try:
        loaded = _load(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise ValueError(f"the weights {path} could not be read: {error}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds no tensors by name, but a {type(loaded).__name__}; a state dict is needed")
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path, device="cpu")
    if _is_torchscript(path):
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    """Whether this is a TorchScript archive, the form in which CLIP was first published."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
