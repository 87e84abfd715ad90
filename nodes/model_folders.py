"""The pack's folders in ComfyUI's model paths, so that extra_model_paths.yaml works for them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

UNIPORTRAIT = "uniportrait"
INSIGHTFACE = "insightface"
IDENTITIES = "likeness_identities"
WEIGHT_SUFFIXES = {".bin", ".safetensors", ".pth", ".pt"}


def register_model_folders() -> None:
    """Add the pack's folders behind those that extra_model_paths.yaml has named already."""
    models = Path(folder_paths.models_dir)
    _register(UNIPORTRAIT, [models / UNIPORTRAIT], WEIGHT_SUFFIXES)
    _register(IDENTITIES, [models / "likeness" / "identities", saved_identities_folder()], {".safetensors"})
    if INSIGHTFACE not in folder_paths.folder_names_and_paths:
        _register(INSIGHTFACE, [models / INSIGHTFACE], {".onnx", ".zip"})
    else:  # shared with other packs, whose choice of suffixes stays
        folder_paths.add_model_folder_path(INSIGHTFACE, str(models / INSIGHTFACE))


def saved_identities_folder() -> Path:
    """Where Save Identity writes."""
    return Path(folder_paths.get_output_directory()) / "identities"


def model_folders(name: str) -> list[Path]:
    """All places of one kind of model, in the order in which they are searched."""
    return [Path(path) for path in folder_paths.get_folder_paths(name)]


def file_state(folder: str, name: str) -> tuple[int, int] | None:
    """Time of change (ns) and size of a file, for fingerprints; None where there is no such file."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return None
    status = Path(path).stat()
    return status.st_mtime_ns, status.st_size


def _register(name: str, folders: list[Path], suffixes: set[str]) -> None:
    for folder in folders:
        folder_paths.add_model_folder_path(name, str(folder))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, suffixes)
