"""The model files that a user puts in place: what each is, where it goes, where it is published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..adapters.checkpoint import Checkpoint, CheckpointError
from ..adapters.families import Family
from . import model_folders
from .model_folders import FACEXLIB, INSIGHTFACE, PULID, TEXT_ENCODERS, UNIID, UNIPORTRAIT, file_state

NONE = "(none)"
AUTO = "auto"
_NOT_INSTALLED = " (not installed)"
_HUB = "on the Hugging Face hub"


@dataclass(frozen=True)
class ModelFile:
    """One published model file; the table of the README says the same."""

    name: str
    folder: str  # ComfyUI's name for the kind of model: models/<folder> or what extra_model_paths.yaml says
    source: str
    licence: str
    size: str
    purpose: str
    keyword: str  # files with it in their name, in small letters, are offered first
    editions: tuple[str, ...] = ()  # other names of the same weights
    also: tuple[str, ...] = ()  # other kinds of folders where users have it, by the habit of other packs

    @property
    def folders(self) -> tuple[str, ...]:
        """All kinds of folders where it is looked for."""
        return (self.folder, *self.also)


FACEID = ModelFile(
    "uniportrait-faceid_sd15.bin",
    UNIPORTRAIT,
    f"Junjie96/UniPortrait {_HUB}",
    "Apache-2.0",
    "224 MB",
    "turns faces into identities and draws one person",
    "faceid",
    ("uniportrait-faceid_sd15.safetensors",),
)
ROUTER = ModelFile(
    "uniportrait-router_sd15.bin",
    UNIPORTRAIT,
    f"Junjie96/UniPortrait {_HUB}",
    "Apache-2.0",
    "226 MB",
    "draws several people in one picture",
    "router",
    ("uniportrait-router_sd15.safetensors",),
)
BACKBONE = ModelFile(
    "glint360k_curricular_face_r101_backbone.bin",
    UNIPORTRAIT,
    f"Junjie96/UniPortrait {_HUB}",
    "Apache-2.0",
    "261 MB",
    "recognises faces in the photos",
    "backbone",
)
IMAGE_PROMPT = ModelFile(
    "ip-adapter_sd15.safetensors",
    UNIPORTRAIT,
    f"h94/IP-Adapter {_HUB}, folder models",
    "Apache-2.0",
    "45 MB",
    "optional: takes content or style from a picture",
    "ip-adapter",
    ("ip-adapter_sd15.bin",),
)
CLIP_VISION = ModelFile(
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    model_folders.CLIP_VISION,
    f"h94/IP-Adapter {_HUB}, models/image_encoder/model.safetensors (rename it)",
    "Apache-2.0 and MIT",
    "2.5 GB",
    "sees what the recognition backbone leaves out; loaded with Load CLIP Vision",
    "clip-vit-h-14",
)
UNIPORTRAIT_FILES = (FACEID, ROUTER, BACKBONE, IMAGE_PROMPT, CLIP_VISION)

# Sizes of PuLID's files are those of half precision, from the number of weights.
PULID_V1_1 = ModelFile(
    "pulid_v1.1.safetensors",
    PULID,
    f"guozinan/PuLID {_HUB}",
    "Apache-2.0",
    "1.0 GB",
    "people in SDXL, any checkpoint",
    "pulid",
)
PULID_V1 = ModelFile(
    "pulid_v1.bin",
    PULID,
    f"guozinan/PuLID {_HUB}",
    "Apache-2.0",
    "0.8 GB",
    "people in SDXL, best with SDXL-Lightning",
    "pulid",
    ("ip-adapter_pulid_sdxl_fp16.safetensors",),
)
PULID_FLUX = ModelFile(
    "pulid_flux_v0.9.1.safetensors",
    PULID,
    f"guozinan/PuLID {_HUB}",
    "Apache-2.0",
    "1.1 GB",
    "people in FLUX.1-dev",
    "pulid",
    ("pulid_flux_v0.9.0.safetensors",),
)
EVA_CLIP = ModelFile(
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    model_folders.CLIP_VISION,
    f"QuanSun/EVA-CLIP {_HUB}",
    "MIT",
    "856 MB",
    "sees the face in the photos",
    "eva02",
    also=(TEXT_ENCODERS, PULID),
)
PARSER = ModelFile(
    "parsing_bisenet.pth",
    FACEXLIB,
    "github.com/xinntao/facexlib (releases, v0.2.0)",
    "MIT",
    "53 MB",
    "tells face and hair from clothes and background",
    "bisenet",
    also=(PULID,),
)
RECOGNISER = ModelFile(
    "glintr100.onnx",
    INSIGHTFACE,
    "github.com/deepinsight/insightface (releases, v0.7), in antelopev2.zip",
    "non-commercial research",
    "261 MB",
    "recognises faces in the photos",
    "glintr100",
    also=(PULID,),
)
PULID_FILES = (PULID_V1_1, PULID_V1, PULID_FLUX, EVA_CLIP, PARSER, RECOGNISER)

# Both branches are published under one file name: their folders tell them apart, and so do their keys.
UNIID_TEXT_BRANCH = ModelFile(
    "text_branch_checkpoints/checkpoint-12/pytorch_model.bin",
    UNIID,
    f"pangly/UniID {_HUB}",
    "MIT",
    "471 MB",
    "people as words of the prompt, in SDXL",
    "text_branch",
)
UNIID_ADAPTER_BRANCH = ModelFile(
    "adapter_branch_checkpoints/checkpoint-16/pytorch_model.bin",
    UNIID,
    f"pangly/UniID {_HUB}",
    "MIT",
    "1.6 GB",
    "people in every layer of SDXL, with masks",
    "adapter_branch",
)
UNIID_BACKBONE = ModelFile(
    "backbone.pth",
    UNIID,
    "github.com/deepinsight/insightface (model zoo of arcface_torch), folder glint360k_cosface_r100_fp16_0.1",
    "non-commercial research",
    "261 MB",
    "recognises faces in the photos",
    "backbone",
)
UNIID_FILES = (UNIID_TEXT_BRANCH, UNIID_ADAPTER_BRANCH, UNIID_BACKBONE)


def file_options(wanted: ModelFile, optional: bool = False, auto: bool = False) -> list[str]:
    """What a combo offers: "auto" and "(none)" where they are allowed, then the likely files; never an empty list.

    Without a likely file the first entry says which one is missing, so that the node opens and its error can explain.
    """
    likely = list(_likely(wanted))
    others = [name for name in folder_paths.get_filename_list(wanted.folder) if name not in likely]
    if optional or auto:
        choices = [choice for choice, offered in ((AUTO, auto), (NONE, optional)) if offered]
        return [*choices, *likely, *others]
    return [*(likely or [wanted.name + _NOT_INSTALLED]), *others]


def likely_or_none(wanted: ModelFile) -> str:
    """The default where a file is optional: the first likely one, or "(none)"."""
    return next(_likely(wanted), NONE)


def find_file(wanted: ModelFile, name: str, node: str) -> Path:
    """The path of the file that a combo named; "auto" is the published one, else the first likely one.

    Raises:
        ValueError: it is not there; the message says where it goes and where the wanted one is published.
    """
    path = _path(wanted, name)
    if path is not None:
        return path
    name = wanted.name if name == AUTO else name.removesuffix(_NOT_INSTALLED)
    raise ValueError(f"{node}: {name} was not found in {searched(wanted)}. {advice(wanted, name)}")


def chosen_state(wanted: ModelFile, name: str) -> tuple[int, int] | None:
    """What `fingerprint_inputs` needs of the file that a combo named."""
    return file_state(_path(wanted, name))


def advice(wanted: ModelFile, name: str = "") -> str:
    """How to get a model file that is missing; with another name than the published one, that it is another."""
    known = name in ("", wanted.name, *wanted.editions)
    what = f"{wanted.name} ({wanted.size}, licence {wanted.licence})"
    start = f"Download {what}" if known else f"Choose a file that is there, or download the published {what}"
    return f"{start} from {wanted.source}, put it into models/{wanted.folder}, and press R in ComfyUI."


def searched(wanted: ModelFile) -> str:
    """All folders where a file is looked for, for messages."""
    return ", ".join(str(path) for folder in wanted.folders for path in model_folders.model_folders(folder))


def check_kind(file: Checkpoint, family: Family, wanted: ModelFile, slot: str) -> None:
    """Refuse a file of another kind than the slot needs.

    Raises:
        CheckpointError: it is of another kind; the message names both.
    """
    if file.family != family:
        raise CheckpointError(
            f"{file.name} is {file.family.label}, {file.family.use}; the {slot} slot needs {family.label} "
            f"({wanted.name})."
        )


def _path(wanted: ModelFile, name: str) -> Path | None:
    if name == AUTO:
        name = next((known for known in (wanted.name, *wanted.editions, *_likely(wanted)) if _find(wanted, known)), "")
    return _find(wanted, name.removesuffix(_NOT_INSTALLED))


def _find(wanted: ModelFile, name: str) -> Path | None:
    paths = (folder_paths.get_full_path(folder, name) for folder in wanted.folders)
    return next((Path(path) for path in paths if name and path is not None), None)


def _likely(wanted: ModelFile) -> Iterator[str]:
    """Names of files that are probably the wanted one, each once."""
    names = (name for folder in wanted.folders for name in folder_paths.get_filename_list(folder))
    yield from dict.fromkeys(name for name in names if wanted.keyword in name.lower())
