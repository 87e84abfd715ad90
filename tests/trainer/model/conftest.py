"""A tiny world on disk: base model, encoders, adapters and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from likeness.faces.backbone import IRBackbone
from likeness.trainer.batch import Batch
from likeness.trainer.model.base_model import BaseModel, load_base_model
from likeness.trainer.model.encoders import FaceEncoders, load_face_encoders
from likeness.trainer.model.settings import AdapterSizes, ModelSettings
from likeness.trainer.model.uniportrait import UniPortraitTraining
from likeness.trainer.model.weights import new_adapter, with_router
from safetensors.torch import save_file

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

CONTEXT = 32


def write_base(folder: Path, prediction_type: str = "epsilon", **unet: Any) -> Path:
    """A diffusers folder with random weights: 4 times smaller latents, heads that are not 64 wide, no tokenizer."""
    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": CONTEXT, "attention_head_dim": 4}
    diffusers.UNet2DConditionModel(**{**sizes, **unet}).save_pretrained(folder / "unet")
    small = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    blocks = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3}
    diffusers.AutoencoderTiny(**small, **blocks).save_pretrained(folder / "vae")
    text = transformers.CLIPTextConfig(
        hidden_size=CONTEXT, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=49408
    )
    transformers.CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    ).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def write_base_model() -> Callable[..., Path]:
    return write_base


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, clip/ and backbone.safetensors."""
    folder = tmp_path_factory.mktemp("world")
    write_base(folder / "base")
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, patch_size=14, image_size=224
    )
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(folder / "clip")
    save_file(IRBackbone((8, 12, 16, 24), (1, 1, 1, 1), 20).state_dict(), folder / "backbone.safetensors")
    return folder


@pytest.fixture
def base(world: Path) -> BaseModel:
    return load_base_model(world / "base", "cpu", torch.float32)


@pytest.fixture(scope="session")
def encoders(world: Path) -> FaceEncoders:
    return load_face_encoders(world / "backbone.safetensors", world / "clip", "cpu", torch.float32)


@pytest.fixture(scope="session")
def sizes() -> AdapterSizes:
    return AdapterSizes(rank=4, width=32, depth=2, heads=2, head_width=12, tokens=6, feed_forward=2)


@pytest.fixture(scope="session")
def make_settings(sizes: AdapterSizes) -> Callable[..., ModelSettings]:
    """`make_settings(stage=2, dropping={"face": 0.0})`: the defaults with the tiny sizes and these changes."""
    return lambda **changes: ModelSettings.model_validate({"sizes": sizes, **changes})


def loosened(adapter: Any, seed: int = 5) -> Any:
    """The adapter with LoRA and routers that have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if ".up." in name:
                weight.normal_(std=0.2, generator=generator)
            elif "_router" in name and weight.ndim == 2:
                weight.normal_(std=2.0 / weight.shape[1] ** 0.5, generator=generator)
    return adapter


@pytest.fixture
def make_training(base: BaseModel, encoders: FaceEncoders, make_settings: Any) -> Callable[..., UniPortraitTraining]:
    """`make_training(stage=2, seed=3, loose=True, **settings)`; loose gives LoRA and routers an effect."""

    def make(stage: int = 1, seed: int = 3, loose: bool = False, **changes: Any) -> UniPortraitTraining:
        settings = make_settings(stage=stage, **changes)
        adapter = new_adapter(base.unet, encoders.sizes, 0, settings)
        if stage == 2:
            adapter = with_router(adapter, 1)
        return UniPortraitTraining(base, loosened(adapter) if loose else adapter, settings, seed, encoders)

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """`make_batch([2, 3], positions=[5, 9], padded=4)`: pictures with so many faces, functions of the positions."""

    def make(
        counts: Sequence[int],
        positions: Sequence[int] | None = None,
        padded: int | None = None,
        size: tuple[int, int] = (64, 32),
    ) -> Batch:
        positions = range(len(counts)) if positions is None else positions
        num_faces = padded or max(counts)
        valid = torch.zeros(len(counts), num_faces, dtype=torch.bool)
        masks = torch.zeros(len(counts), num_faces, *size, dtype=torch.bool)
        pixels = torch.zeros(len(counts), 3, *size)
        crops = torch.zeros(len(counts), num_faces, 224, 224, 3, dtype=torch.uint8)
        for row, (count, position) in enumerate(zip(counts, positions, strict=True)):
            generator = torch.Generator().manual_seed(position)
            valid[row, :count] = True
            pixels[row] = torch.rand(3, *size, generator=generator) * 2 - 1
            crops[row, :count] = torch.randint(0, 256, (count, 224, 224, 3), dtype=torch.uint8, generator=generator)
            for face in range(count):
                masks[row, face, 4:36, 8 * face : 8 * face + 8] = True
        return Batch(
            keys=tuple(f"sample{position}" for position in positions),
            positions=torch.tensor(list(positions)),
            captions=tuple(f"a photo of number {position}" for position in positions),
            valid=valid,
            masks=masks,
            pixels=pixels,
            crops=crops,
        )

    return make
