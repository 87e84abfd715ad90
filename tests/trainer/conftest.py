"""A tiny world on disk: a diffusers folder, encoders, and pictures of made-up people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@dataclass(frozen=True)
class TinyWorld:
    """Paths of frozen networks and data sets. `portraits` shows one person a picture, `groups` two or three."""

    base: Path
    clip_vision: Path
    backbone: Path
    portraits: Path
    groups: Path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of SD 1.5's architecture with random weights; 64 px pictures give 8 x 8 latents."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    widths = (16, 16, 32, 32)
    UNet2DConditionModel(
        block_out_channels=widths, layers_per_block=2, cross_attention_dim=32, norm_num_groups=8, attention_head_dim=2
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text.vocab_size, text.bos_token_id, text.eos_token_id = 49408, 49406, 49407
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        folder / "scheduler"
    )
    return folder


@pytest.fixture(scope="session")
def tiny_clip_vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of a CLIP vision tower with 16 x 16 patch tokens."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=14,
        projection_dim=8,
    )
    folder = tmp_path_factory.mktemp("clip_vision")
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face recognition backbone of four blocks."""
    from likeness.faces.backbone import IRBackbone
    from safetensors.torch import save_file

    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    backbone = IRBackbone(widths=(4, 8, 12, 16), units=(1, 1, 1, 1), embedding=16)
    save_file(dict(backbone.state_dict()), path)
    return path


def _picture(numbers: np.random.Generator, faces: int, size: int) -> tuple[np.ndarray, list]:
    """A picture of smooth colours and as many "faces" as wanted beside each other: boxes with five landmarks."""
    from likeness.trainer.data.records import FaceRecord

    coarse = numbers.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    picture = np.kron(coarse, np.ones((size // 4, size // 4, 1), np.uint8))
    width = size // max(faces, 1)
    side = min(width, size) * 0.7
    records = []
    for number in range(faces):
        x, y = number * width + 0.15 * width, 0.15 * size
        picture[int(y) : int(y + side), int(x) : int(x + side)] = numbers.integers(60, 255, 3)
        points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
        landmarks = tuple((x + px * side, y + py * side) for px, py in points)
        records.append(FaceRecord((x, y, x + side, y + side), landmarks, 0.99))
    return picture, records


@pytest.fixture(scope="session")
def store_set() -> Callable[..., Path]:
    """`store_set(folder, samples, cache=None, prepared={}, per_shard=1000)` writes a set and returns its folder."""

    def store(
        folder: Path, samples: Sequence[Any], cache: Any = None, prepared: Any = None, per_shard: int = 1000
    ) -> Path:
        from likeness.trainer.data.unfinished import UnfinishedSet

        target = UnfinishedSet(folder, prepared or {})
        for start in range(0, len(samples), per_shard):
            target.add(samples[start : start + per_shard], {})
        target.finish(cache)
        return folder

    return store


@pytest.fixture(scope="session")
def write_pictures(tmp_path_factory: pytest.TempPathFactory, store_set: Callable[..., Path]) -> Callable[..., Path]:
    """`write_pictures(counts, size=64)` makes a set of one picture for each number of faces and returns its folder."""

    def write(counts: Sequence[int], size: int = 64) -> Path:
        from likeness.trainer.data.records import PictureRecord
        from likeness.trainer.data.samples import make_sample

        numbers = np.random.default_rng(0)
        samples = []
        for number, faces in enumerate(counts):
            picture, records = _picture(numbers, faces, size)
            record = PictureRecord(f"photo number {number % 5}", tuple(records))
            samples.append(make_sample(f"picture{number:03d}", picture, record))
        return store_set(tmp_path_factory.mktemp("pictures") / "set", samples)

    return write


@pytest.fixture(scope="session")
def tiny_world(
    tiny_base: Path, tiny_clip_vision: Path, tiny_backbone: Path, write_pictures: Callable[..., Path]
) -> TinyWorld:
    """Everything that a run of either stage needs."""
    return TinyWorld(tiny_base, tiny_clip_vision, tiny_backbone, write_pictures([1] * 18), write_pictures([2, 3] * 8))
