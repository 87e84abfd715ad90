"""Encoding one face from a photograph, stage by stage, with networks of the published sizes and random weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.ops
import torch

from ..adapters.features import clip_pixels, recognition_input
from ..faces.alignment import align
from ..faces.backbone import IRBackbone
from ..faces.detection import find_faces, load_detector
from ..model_patches.uniportrait_encoder import UniPortraitEncoder
from . import full_size

VIT_H = {
    "model_type": "clip_vision_model",
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "num_hidden_layers": 32,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
}


def print_table(rounds: int) -> None:
    """Print the median, lowest and highest seconds of each stage."""
    device = comfy.model_management.get_torch_device()
    with torch.inference_mode():
        stages = _stages(_encoder(), device)
        print(
            f"one face, random weights, {device}, {torch.get_num_threads()} threads, {rounds} rounds after a first one"
        )
        print(f"{'':40}{'first':>8}{'median':>8}{'lowest':>8}{'highest':>9}")
        for name, stage in stages:
            first, *times = [_seconds(stage) for _ in range(1 + rounds)]
            print(f"{name:40}{first:>8.3f}{statistics.median(times):>8.3f}{min(times):>8.3f}{max(times):>9.3f}")


def _stages(encoder: UniPortraitEncoder, device: torch.device) -> list[tuple[str, Callable[[], Any]]]:
    import skimage.data

    detector, photo = load_detector("bundled"), skimage.data.astronaut()
    landmarks = find_faces([photo], detector).faces[0].landmarks
    crops = torch.from_numpy(align(photo, landmarks, 224)).float()[None] / 255
    face = recognition_input(clip_pixels(crops.movedim(-1, 1))).to(device)
    sizes = encoder.weights.resampler.sizes
    intrinsic = torch.randn(1, 49, sizes.intrinsic_dim, device=device)
    structure = torch.randn(1, 256, sizes.structure_dim, device=device)
    return [
        ("detect (bundled), 512x512", lambda: find_faces([photo], detector)),
        ("align to 224x224", lambda: align(photo, landmarks, 224)),
        ("everything from the crop (Encode)", lambda: encoder.encode(crops, 0.1)),
        ("  of which IR-101 backbone", lambda: encoder.backbone.model.features(face)),
        ("  of which ViT-H/14", lambda: encoder.clip_vision.encode_image(crops, crop=False)),
        ("  of which resampler, for each half", lambda: encoder.weights.resampler(intrinsic, structure, 0.1)),
    ]


def _encoder() -> UniPortraitEncoder:
    backbone = IRBackbone(operations=comfy.ops.manual_cast)
    clip_vision = comfy.clip_vision.ClipVisionModel(VIT_H)
    for module in (backbone, clip_vision.model):
        full_size.fill(module)
    return UniPortraitEncoder(full_size.uniportrait().weights, backbone, clip_vision)


def _seconds(stage: Callable[[], Any]) -> float:
    start = time.perf_counter()
    stage()
    return time.perf_counter() - start
