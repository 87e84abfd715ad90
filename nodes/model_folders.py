"""The pack's folders in ComfyUI's model paths, so that extra_model_paths.yaml works for them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

UNIPORTRAIT = "uniportrait"
PULID = "pulid"
UNIID = "uniid"
FACEXLIB = "facexlib"
INSIGHTFACE = "insightface"
CLIP_VISION = "clip_vision"
TEXT_ENCODERS = "text_encoders"  # and models/clip, where some packs want EVA-CLIP
IDENTITIES = "likeness_identities"
WEIGHT_SUFFIXES = {".bin", ".safetensors", ".pth", ".pt"}


def register_model_folders() -> None:
    """Add the pack's folders behind those that extra_model_paths.yaml has named already."""
    models = Path(folder_paths.models_dir)
    for own in (UNIPORTRAIT, UNIID):
        _register(own, [models / own], WEIGHT_SUFFIXES)
    _register(IDENTITIES, [models / "likeness" / "identities", saved_identities_folder()], {".safetensors"})
    for shared, suffixes in (
        (PULID, WEIGHT_SUFFIXES),
        (FACEXLIB, WEIGHT_SUFFIXES),
        (INSIGHTFACE, {".onnx", ".zip"}),
    ):
        if shared not in folder_paths.folder_names_and_paths:
            _register(shared, [models / shared], suffixes)
        else:  # shared with other packs, whose choice of suffixes stays
            folder_paths.add_model_folder_path(shared, str(models / shared))


def saved_identities_folder() -> Path:
    """Where Save Identity writes."""
    return Path(folder_paths.get_output_directory()) / "identities"


def model_folders(name: str) -> list[Path]:
    """All places of one kind of model, in the order in which they are searched."""
    return [Path(path) for path in folder_paths.get_folder_paths(name)]


def file_state(path: str | Path | None) -> tuple[int, int] | None:
    """Time of change (ns) and size of a file, for fingerprints; None where there is no such file."""
    if path is None or not Path(path).is_file():
        return None
    status = Path(path).stat()
    return status.st_mtime_ns, status.st_size


def _register(name: str, folders: list[Path], suffixes: set[str]) -> None:
    for folder in folders:
        folder_paths.add_model_folder_path(name, str(folder))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, suffixes)
