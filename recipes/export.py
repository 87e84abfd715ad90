"""From a recipe's working folder to the files that ship with the pack: `demo/weights`, float16, without ballast."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from ..demo.trained import TEXT_TABLE
from ..faces.detection import load_detector
from ..trainer.model.original_layout import unet_to_original
from ..trainer.run.building import RELEASED_NAMES
from ..trainer.run.folder import find_stage_one
from .judging import centre_file
from .steps import Workshop

SHIPPED_ADAPTERS = (("faceid", "single", 1), ("router", "pairs", 2))  # name of the file, training run, stage


def export(workshop: Workshop, folder: Path, results: Path) -> None:
    """Write the trained weights into `folder`, the judge's centre, which recipe made them, and what they measured."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "base.safetensors", _base(workshop))
    _write(folder / "backbone.safetensors", load_file(workshop.backbone))
    _write(folder / "vision.safetensors", load_file(workshop.vision / "model.safetensors"))
    runs = workshop.folder / "runs"
    for name, run, stage in SHIPPED_ADAPTERS:
        if (runs / run).exists():
            _write(folder / f"{name}.safetensors", load_file(find_stage_one(runs / run, RELEASED_NAMES[stage])))
    shutil.copy(centre_file(workshop, load_detector("bundled", ())), folder)
    made = {"recipe": workshop.recipe.name, "side": workshop.recipe.side, "rows": _rows(results)}
    (folder / "made.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", "utf-8")


def _rows(results: Path) -> dict[str, dict[str, Any]]:
    """Row -> metric -> mean and interval, where there are results."""
    if not results.exists():
        return {}
    rows = json.loads(results.read_text("utf-8"))["rows"]
    return {name: row["scores"] for name, row in rows.items()}


def _base(workshop: Workshop) -> dict[str, Tensor]:
    """U-Net in the original layout, TAESD's slim layers, and the text encoder with the rows of words it knows."""
    unet = UNet2DConditionModel.from_pretrained(workshop.base / "unet").state_dict()
    text = CLIPTextModel.from_pretrained(workshop.base / "text_encoder").state_dict()
    text = {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in text.items()}
    return {
        **unet_to_original(unet),
        **load_file(workshop.slim_vae),
        **{f"text.{key}": value for key, value in _only_known_words(text).items()},
    }


def _only_known_words(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedding as the row that all unknown words share, the known words' numbers, and their rows."""
    table = text.pop(TEXT_TABLE)
    unknown = table.mode(dim=0).values
    numbers = (table != unknown).any(dim=1).nonzero().flatten()
    return {**text, "unknown_word": unknown, "word_numbers": numbers.to(torch.int32), "words": table[numbers]}


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    half = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in tensors.items()}
    save_file(half, path)
