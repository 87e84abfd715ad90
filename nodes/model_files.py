"""The model files that a user puts in place: what each is, where it goes, where it is published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import folder_paths

from .model_folders import UNIPORTRAIT, model_folders

NONE = "(none)"
_NOT_INSTALLED = " (not installed)"


@dataclass(frozen=True)
class ModelFile:
    """One published model file; the table of the README says the same."""

    name: str
    folder: str  # ComfyUI's name for the kind of model: models/<folder> or what extra_model_paths.yaml says
    source: str
    licence: str
    size: str
    purpose: str
    keyword: str  # files with it in their name are offered first
    editions: tuple[str, ...] = ()  # other names of the same weights


FACEID = ModelFile(
    "uniportrait-faceid_sd15.bin",
    UNIPORTRAIT,
    "Junjie96/UniPortrait on the Hugging Face hub",
    "Apache-2.0",
    "224 MB",
    "turns faces into identities and draws one person",
    "faceid",
    ("uniportrait-faceid_sd15.safetensors",),
)
ROUTER = ModelFile(
    "uniportrait-router_sd15.bin",
    UNIPORTRAIT,
    "Junjie96/UniPortrait on the Hugging Face hub",
    "Apache-2.0",
    "226 MB",
    "draws several people in one picture",
    "router",
    ("uniportrait-router_sd15.safetensors",),
)
BACKBONE = ModelFile(
    "glint360k_curricular_face_r101_backbone.bin",
    UNIPORTRAIT,
    "Junjie96/UniPortrait on the Hugging Face hub",
    "Apache-2.0",
    "261 MB",
    "recognises faces in the photos",
    "backbone",
)
IMAGE_PROMPT = ModelFile(
    "ip-adapter_sd15.safetensors",
    UNIPORTRAIT,
    "h94/IP-Adapter on the Hugging Face hub, folder models",
    "Apache-2.0",
    "45 MB",
    "optional: takes content or style from a picture",
    "ip-adapter",
    ("ip-adapter_sd15.bin",),
)
CLIP_VISION = ModelFile(
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    "clip_vision",
    "h94/IP-Adapter on the Hugging Face hub, models/image_encoder/model.safetensors (rename it)",
    "Apache-2.0 and MIT",
    "2.5 GB",
    "sees what the recognition backbone leaves out; loaded with Load CLIP Vision",
    "CLIP-ViT-H-14",
)
MODEL_FILES = (FACEID, ROUTER, BACKBONE, IMAGE_PROMPT, CLIP_VISION)


def file_options(wanted: ModelFile, optional: bool = False) -> list[str]:
    """What a combo offers: the likely files first, "(none)" where that is allowed, and never an empty list.

    Without a likely file the first entry says which one is missing, so that the node opens and its error can explain.
    """
    names = folder_paths.get_filename_list(wanted.folder)
    likely = [name for name in names if wanted.keyword in name.lower()]
    others = [name for name in names if name not in likely]
    if optional:
        return [NONE, *likely, *others]
    return [*(likely or [wanted.name + _NOT_INSTALLED]), *others]


def find_file(wanted: ModelFile, name: str, node: str) -> Path:
    """The path of the file that a combo named.

    Raises:
        ValueError: it is not there; the message says where it goes and where the wanted one is published.
    """
    name = name.removesuffix(_NOT_INSTALLED)
    path = folder_paths.get_full_path(wanted.folder, name)
    if path is not None:
        return Path(path)
    searched = ", ".join(str(folder) for folder in model_folders(wanted.folder))
    raise ValueError(f"{node}: {name} was not found in {searched}. {advice(wanted, name)}")


def advice(wanted: ModelFile, name: str = "") -> str:
    """How to get a model file that is missing; with another name than the published one, that it is another."""
    known = name in ("", wanted.name, *wanted.editions)
    what = f"{wanted.name} ({wanted.size}, licence {wanted.licence})"
    start = f"Download {what}" if known else f"Choose a file that is there, or download the published {what}"
    return f"{start} from {wanted.source}, put it into models/{wanted.folder}, and press R in ComfyUI."
