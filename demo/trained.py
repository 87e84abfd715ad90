"""The weights that ship with the pack, trained in the synthetic world, as files that ComfyUI's loaders read.

They are stored without ballast: the autoencoder as narrow as it was trained, the text encoder with the words it knows.
Here they are filled up: zeros in the other channels, which change nothing, and one row for every unknown word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .tiny_layouts import taesd_shapes, under
from .tiny_sizes import TinySizes

FOLDER = Path(__file__).parent / "weights"
CENTRE_FILE = "dlib-centre.json"  # what the judge is to take from its embeddings of drawn faces
LATENT_SCALE = 0.18215  # SD 1.5's: ComfyUI divides latents by it before decoding
TEXT_TABLE = "text_model.embeddings.token_embedding.weight"


def made(folder: Path = FOLDER) -> dict[str, Any]:
    """Which recipe made the weights, and what they measured."""
    content: dict[str, Any] = json.loads((folder / "made.json").read_text("utf-8"))
    return content


def checkpoint(sizes: TinySizes, folder: Path = FOLDER) -> dict[str, Tensor]:
    """The base model as one SD 1.5 checkpoint, float16."""
    tensors = load_file(folder / "base.safetensors")
    unet = {key: value for key, value in tensors.items() if key.startswith("model.diffusion_model.")}
    taesd = {key: value for key, value in tensors.items() if key.startswith("taesd_")}
    vae = widened(taesd, sizes) | {"vae_scale": torch.tensor(LATENT_SCALE), "vae_shift": torch.tensor(0.0)}
    text = text_encoder(tensors, sizes)
    return unet | under("first_stage_model.", vae) | under("cond_stage_model.transformer.", text)


def text_encoder(base: Mapping[str, Tensor], sizes: TinySizes) -> dict[str, Tensor]:
    """The text encoder in base.safetensors under transformers' names, with a row for every word."""
    text = {key.removeprefix("text."): value for key, value in base.items() if key.startswith("text.")}
    table = text.pop("unknown_word").expand(sizes.vocabulary, -1).clone()
    table[text.pop("word_numbers").long()] = text.pop("words")
    return text | {TEXT_TABLE: table}


def part(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """One of the other files: "backbone", "vision", "faceid" or "router", float16."""
    return load_file(folder / f"{name}.safetensors")


def widened(slim: dict[str, Tensor], sizes: TinySizes) -> dict[str, Tensor]:
    """TAESD of full width that computes the same: channels that are added get and give zero."""
    shapes = taesd_shapes(sizes)
    full = {}
    for key, tensor in slim.items():
        full[key] = tensor.new_zeros(shapes[key])
        full[key][tuple(slice(length) for length in tensor.shape)] = tensor
    return full
