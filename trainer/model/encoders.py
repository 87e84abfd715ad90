"""Aligned face crops to features: the recognition backbone and the CLIP vision tower, frozen.

Letters: k crops, C4 width of the backbone's last stage, Cs width of the structure features, E recognition embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...adapters.checkpoint import Checkpoint, CheckpointError, check_tensors, fingerprint, read_tensors
from ...adapters.families import FACE_BACKBONE
from ...adapters.features import (
    RECOGNITION_SIZE,
    clip_pixels,
    intrinsic_features,
    recognition_input,
    structure_features,
    unconditional_features,
)
from ...faces.backbone import IRBackbone
from ..batch import FaceFeatures
from .clip_models import fill, without_weights

CROP_SIZE = 224
# The ViT-H/14 image encoder of IP-Adapter (OpenCLIP laion2B-s32B-b79K), for files without a configuration.
VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "projection_dim": 1024,
}


@dataclass(frozen=True)
class FeatureSizes:
    """Widths and numbers of the features."""

    intrinsic: int  # C4
    structure: int  # Cs
    structure_tokens: int
    embedding: int  # E


class FaceEncoders:
    """The two frozen networks between a crop and the resampler."""

    def __init__(self, backbone: IRBackbone, tower: Any, fingerprint: str) -> None:
        self.backbone = backbone
        self.tower = tower
        self.fingerprint = fingerprint
        config = tower.config
        self.sizes = FeatureSizes(
            intrinsic=backbone.widths[-1],
            structure=sum(backbone.widths[:-1]) + config.hidden_size,
            structure_tokens=(config.image_size // config.patch_size) ** 2,
            embedding=backbone.output_layer[3].out_features,
        )

    @torch.no_grad()
    def features(self, crops: Tensor, batch: int = 16) -> FaceFeatures:
        """Features of each crop of (k, 224, 224, 3) uint8 RGB: intrinsic (k, 49, C4), structure (k, 256, Cs).

        `batch` crops are taken at a time. The result is in the encoders' dtype on their device. Raises ValueError for
        crops of another size.
        """
        if crops.ndim != 4 or tuple(crops.shape[1:]) != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(f"face crops must be (k, {CROP_SIZE}, {CROP_SIZE}, 3), got {tuple(crops.shape)}.")
        parts = [self._features(part) for part in crops.split(batch)]
        return FaceFeatures(*(torch.cat([getattr(p, name) for p in parts]) for name in ("intrinsic", "structure")))

    @torch.no_grad()
    def unconditional(self) -> FaceFeatures:
        """Features of nobody: intrinsic (1, 49, C4), structure (1, 256, Cs)."""
        nothing = torch.zeros(1, 3, CROP_SIZE, CROP_SIZE, device=self._device)
        with torch.autocast(self._device.type, enabled=False):
            taps = self.backbone.features(recognition_input(nothing))
            return FaceFeatures(*unconditional_features(taps, self._clip_tokens(nothing)))

    def head(self) -> torch.nn.Module:
        """The backbone's last layers: intrinsic features as a map (k, C4, 7, 7) -> embedding (k, E)."""
        return self.backbone.output_layer

    def _features(self, crops: Tensor) -> FaceFeatures:
        pixels = clip_pixels(crops.to(self._device).movedim(-1, 1).float() / 255.0)
        with torch.autocast(pixels.device.type, enabled=False):
            taps = self.backbone.features(recognition_input(pixels))
            joined = intrinsic_features(taps), structure_features(taps, self._clip_tokens(pixels))
        # The adapters join references on the token axis; here each crop is a person.
        return FaceFeatures(*(tokens.unflatten(1, (len(crops), -1))[0] for tokens in joined))

    def _clip_tokens(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.to(self.tower.dtype)).last_hidden_state[:, 1:]

    @property
    def _device(self) -> torch.device:
        return self.tower.device


def load_face_encoders(
    backbone_path: str | Path, clip_vision_path: str | Path, device: torch.device | str, dtype: torch.dtype
) -> FaceEncoders:
    """Load the face backbone (.bin or .safetensors) and CLIP vision (a transformers folder, or the ViT-H file).

    Raises ValueError naming what the files are if they do not fit.
    """
    file = read_tensors(backbone_path)
    if file.family != FACE_BACKBONE:
        raise CheckpointError(f"{file.name} is {file.family.label}; expected {FACE_BACKBONE.label}.")
    backbone = IRBackbone.from_state_dict(file.tensors)
    if backbone.input_size != RECOGNITION_SIZE:
        raise ValueError(f"{file.name} reads {backbone.input_size} px faces; UniPortrait gives {RECOGNITION_SIZE} px.")
    tower, tensors = _load_tower(Path(clip_vision_path))
    digest = fingerprint({**{f"backbone.{k}": v for k, v in file.tensors.items()}, **tensors})
    return FaceEncoders(backbone.to(device, dtype), tower.to(device, dtype), digest)


def _load_tower(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The vision model without its last layer, whose output is not used, and the tensors that it was filled with."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config, file = _read_tower(path)
    num_layers = config["num_hidden_layers"]
    if config["image_size"] != CROP_SIZE:
        raise ValueError(f"{path.name} reads {config['image_size']} px pictures; face crops have {CROP_SIZE} px.")
    tower = without_weights(CLIPVisionModel, CLIPVisionConfig(**{**config, "num_hidden_layers": num_layers - 1}))
    names = {key: key.removeprefix("vision_model.") for key in tower.state_dict()}
    stored = {key.removeprefix("vision_model."): value for key, value in file.tensors.items()}
    spare = (f"encoder.layers.{num_layers - 1}.", "visual_projection.", "embeddings.position_ids")
    kept = {key: value for key, value in stored.items() if not key.startswith(spare)}
    wanted = {names[key]: tuple(value.shape) for key, value in tower.state_dict().items()}
    check_tensors(Checkpoint(file.path, kept), wanted, " its configuration")
    fill(tower, {key: kept[name] for key, name in names.items()})
    return tower.eval().requires_grad_(False), kept


def _read_tower(path: Path) -> tuple[Mapping[str, Any], Checkpoint]:
    if not path.is_dir():
        file = read_tensors(path)
        if file.family.name != "clip-vision":
            raise CheckpointError(f"{file.name} is {file.family.label}; expected a CLIP vision model.")
        return VIT_H, file
    config = path / "config.json"
    if not config.is_file():
        raise ValueError(f"{path} is no CLIP vision folder: config.json is missing.")
    values = json.loads(config.read_text("utf-8"))
    values = values.get("vision_config", values)
    files = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
    if not files:
        raise ValueError(f"{path} holds no model.safetensors.")
    defaults = {"num_hidden_layers": 12, "image_size": 224}
    return {**defaults, **{k: v for k, v in values.items() if k in VIT_H or k in ("layer_norm_eps",)}}, read_tensors(
        files[0]
    )
