"""Whole graphs on the tiny models, through stock nodes of a real server."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from likeness.demo.tiny_models import TRAINED, TinyModels, write_tiny_models
from PIL import Image

PICTURE = "likeness-tiny-test.png"


@pytest.fixture(scope="module")
def models(comfy_server: Any, tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("picture") / PICTURE
    Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    comfy_server.client.upload(path)
    return write_tiny_models(comfy_server.folder / "models", weights=TRAINED)


@pytest.fixture
def draw(comfy_server: Any, models: TinyModels) -> Callable[..., np.ndarray]:
    """`draw(**changes)` samples one picture, (H, W, 3) in [0, 255]."""

    def run(text: str = "a photo of a woman", seed: int = 1, control: float = 0.0, **sampler: Any) -> np.ndarray:
        control_inputs = {"positive": ["text", 0], "negative": ["negative", 0], "control_net": ["control", 0]}
        control_inputs |= {"image": ["image", 0], "strength": control, "start_percent": 0.0, "end_percent": 1.0}
        settings = {
            "seed": seed,
            "steps": 4,
            "cfg": 5.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        }
        inputs = {"positive": ["controlled", 0], "negative": ["controlled", 1], "latent_image": ["latent", 0]}
        graph = {
            "model": ("CheckpointLoaderSimple", {"ckpt_name": models.checkpoint}),
            "text": ("CLIPTextEncode", {"text": text, "clip": ["model", 1]}),
            "negative": ("CLIPTextEncode", {"text": "blurry", "clip": ["model", 1]}),
            "image": ("LoadImage", {"image": PICTURE}),
            "encoded": ("VAEEncode", {"pixels": ["image", 0], "vae": ["model", 2]}),
            "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
            "control": ("ControlNetLoader", {"control_net_name": models.controlnet}),
            "controlled": ("ControlNetApplyAdvanced", control_inputs),
            "sampled": ("KSampler", {"model": ["model", 0], **inputs, **settings, **sampler}),
            "decoded": ("VAEDecode", {"samples": ["sampled", 0], "vae": ["model", 2]}),
            "saved": ("SaveImage", {"images": ["decoded", 0], "filename_prefix": "tiny"}),
        }
        entry = comfy_server.client.run({key: {"class_type": kind, "inputs": i} for key, (kind, i) in graph.items()})
        (image,) = entry["outputs"]["saved"]["images"]
        return np.asarray(Image.open(io.BytesIO(comfy_server.client.view(image))).convert("RGB"), np.float32)

    return run


def test_pictures_are_neither_flat_nor_saturated_and_follow_seed_text_and_control(draw):
    picture = draw()
    assert picture.shape == (64, 64, 3)
    assert picture.std((0, 1)).min() > 10
    assert ((picture < 2) | (picture > 253)).mean() < 0.4
    for changed in (draw(seed=2), draw(text="a blue car in the rain"), draw(control=1.0)):
        assert np.abs(changed - picture).mean() > 8


def test_a_second_run_draws_the_same_picture(draw, comfy_server):
    picture = draw(seed=5)
    comfy_server.client.free()
    draw(seed=6)
    assert np.array_equal(draw(seed=5), picture)


def test_image_to_image_starts_from_the_picture(draw, comfy_server):
    content = comfy_server.client.view({"filename": PICTURE, "subfolder": "", "type": "input"})
    reference = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
    near, far = (draw(latent_image=["encoded", 0], denoise=denoise) for denoise in (0.02, 1.0))
    assert np.abs(near - reference).mean() < 0.5 * np.abs(far - reference).mean()


def test_the_clip_vision_node_feeds_the_stock_encoder(comfy_server, models):
    node = {"clip_vision": ["loaded", 0], "image": ["image", 0], "crop": "none"}
    graph = {
        "loaded": ("LikenessDemo_LoadCLIPVision", {"clip_name": models.clip_vision}),
        "image": ("LoadImage", {"image": PICTURE}),
        "encoded": ("CLIPVisionEncode", node),
        "shown": ("PreviewAny", {"source": ["encoded", 0]}),
    }
    entry = comfy_server.client.run({key: {"class_type": kind, "inputs": i} for key, (kind, i) in graph.items()})
    assert entry["outputs"]["shown"]["text"]
