"""Face recognisers of insightface's packs, where a user has them."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.judges.arcface import find_recognisers
from ..faces.arcface import ArcFace, load_recogniser
from ..faces.insightface_packs import RECOGNISER, find_network
from ..faces.onnx_sessions import AUTO
from .model_folders import INSIGHTFACE, PULID, file_state, model_folders


def recogniser_folders() -> list[Path]:
    """Where packs are looked for: models/insightface, and models/pulid by the habit of other packs."""
    return [*model_folders(INSIGHTFACE), *model_folders(PULID)]


def installed_recognisers() -> dict[str, Path]:
    """Unpacked recognisers by the name that a combo shows."""
    folders = recogniser_folders()
    return {
        path.relative_to(next(folder for folder in folders if folder in path.parents)).as_posix(): path
        for path in find_recognisers(folders)
    }


def usual_recogniser(provider: str = AUTO) -> ArcFace:
    """The recogniser with which PuLID was trained. Raises ValueError with file, folders and source if it is missing."""
    return load_recogniser(recogniser_folders(), provider)


def usual_state() -> tuple[int, int] | None:
    """What `fingerprint_inputs` needs of the file that `usual_recogniser` reads."""
    found = find_network(RECOGNISER, recogniser_folders())
    return None if found is None else file_state(found.path)
