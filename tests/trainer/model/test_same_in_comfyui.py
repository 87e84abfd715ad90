"""What the trainer computes is what ComfyUI samples: one set of files, two hosts, from crops to noise prediction."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from likeness.adapters.checkpoint import read_tensors
from likeness.adapters.uniportrait import load_uniportrait
from likeness.demo.tiny_models import TinyModels
from likeness.demo.tiny_sizes import TinySizes
from likeness.faces.backbone import IRBackbone
from likeness.recipes.base import unet_config
from likeness.trainer.model import single_file
from likeness.trainer.model.encoders import FaceEncoders, load_face_encoders
from likeness.trainer.model.host import DiffusersHost
from likeness.trainer.model.identity_tokens import TokenMaker
from likeness.trainer.model.original_layout import unet_to_original
from likeness.trainer.model.text import TextEncoder, clip_tokenizer
from likeness.trainer.model.weights import load_adapter
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-5
SIZES = TinySizes()
PROMPTS = ("a photo of a woman in a red shirt", "blurry")


@dataclass(frozen=True)
class Ours:
    """The trainer's networks from the tiny files."""

    unet: Any
    text: TextEncoder
    host: DiffusersHost
    encoders: FaceEncoders
    tokens: TokenMaker


@dataclass(frozen=True)
class Theirs:
    """ComfyUI's networks from the same files, the adapter in this pack's nodes' classes."""

    model: Any
    clip: Any
    models: Any


@pytest.fixture(scope="module")
def ours(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    paths = tiny_models.paths
    file = read_tensors(paths[tiny_models.checkpoint])
    text = {
        **single_file.TEXT,
        "hidden_size": SIZES.context,
        "intermediate_size": SIZES.text_feed_forward,
        "num_hidden_layers": SIZES.text_layers,
        "num_attention_heads": SIZES.context // 16,
    }
    unet = single_file.unet_of(file, unet_config(SIZES)).float().eval()
    adapter = load_adapter(paths[tiny_models.faceid_safetensors], paths[tiny_models.router_safetensors])
    clip = vision_folder(paths[tiny_models.clip_vision], tmp_path_factory.mktemp("clip"))
    encoders = load_face_encoders(paths[tiny_models.backbone], clip, "cpu", torch.float32)
    return Ours(
        unet=unet,
        text=TextEncoder(single_file.text_of(file, text).float(), clip_tokenizer(77)),
        host=DiffusersHost(unet, adapter),
        encoders=encoders,
        tokens=TokenMaker(adapter.resampler, "local", torch.device("cpu"), encoders, None, None),
    )


def vision_folder(file: Path, folder: Path) -> Path:
    """The tiny tower as a transformers folder: its head count is in no file."""
    import transformers

    transformers.CLIPVisionConfig(
        hidden_size=SIZES.vision_width,
        intermediate_size=SIZES.vision_feed_forward,
        num_hidden_layers=SIZES.vision_layers,
        num_attention_heads=SIZES.vision_width // 32,
        image_size=SIZES.vision_image,
        patch_size=SIZES.vision_patch,
        hidden_act="gelu",
    ).save_pretrained(folder)
    shutil.copy(file, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def theirs(tiny_models: TinyModels, models_pack: Any) -> Theirs:
    import comfy.clip_vision
    import comfy.ops
    import comfy.sd
    from likeness.model_patches.uniportrait_encoder import UniPortraitEncoder
    from likeness.model_patches.uniportrait_models import UniPortraitModels

    paths = tiny_models.paths
    model, clip, _ = comfy.sd.load_checkpoint_guess_config(
        str(paths[tiny_models.checkpoint]), output_vae=False, model_options={"dtype": torch.float32}
    )[:3]
    tower = comfy.clip_vision.ClipVisionModel(
        models_pack.clip_vision.vision_config(load_file(paths[tiny_models.clip_vision]), tiny_models.clip_vision)
    )
    tower.load_sd(load_file(paths[tiny_models.clip_vision]))
    weights = load_uniportrait(paths[tiny_models.faceid], paths[tiny_models.router], operations=comfy.ops.manual_cast)
    backbone = IRBackbone.from_state_dict(
        read_tensors(paths[tiny_models.backbone]).tensors, operations=comfy.ops.manual_cast
    )
    return Theirs(model, clip, UniPortraitModels(weights, UniPortraitEncoder(weights, backbone, tower)))


def predicted_by_comfyui(model: Any, text: Any, latents: torch.Tensor, timestep: int) -> list[torch.Tensor]:
    """ComfyUI's noise predictions for (positive, negative), from inside its own sampling code."""
    import comfy.samplers

    sigma = model.get_model_object("model_sampling").sigma(torch.tensor([timestep]))
    x = latents * (sigma**2 + 1) ** 0.5  # ComfyUI's latents carry the noise level
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*([[embedding, {}]] for embedding in text))
    guider.set_cfg(5.0)
    found = []

    def sampler(_: Any, noise: torch.Tensor, sigmas: Any, extra_args: dict[str, Any], **__: Any) -> torch.Tensor:
        conds = [guider.conds["positive"], guider.conds["negative"]]
        options = extra_args["model_options"]
        denoised = comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigma, options)
        found.extend((x - half) / sigma for half in denoised)
        return noise

    sampling = comfy.samplers.KSAMPLER(sampler)
    guider.sample(latents, torch.zeros_like(latents), sampling, torch.cat([sigma, torch.zeros(1)]), disable_pbar=True)
    return found


def crops(count: int) -> torch.Tensor:
    """Smooth pictures (count, 224, 224, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    return (smooth * 255).round().to(torch.uint8).movedim(1, -1)


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 5e-5) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max().item() <= tolerance


def test_clip_and_backbone_features(ours: Ours, theirs: Theirs) -> None:
    from likeness.adapters.features import structure_features

    encoder, faces = theirs.models.encoder, crops(2)
    with torch.inference_mode():
        pixels = encoder._clip_input(faces.float() / 255)
        hidden = encoder._clip_features(pixels)
        from likeness.adapters.features import recognition_input

        taps = encoder.backbone.model.features(recognition_input(pixels))
        expected = structure_features(taps, hidden).unflatten(1, (2, -1))[0]
    assert_near(ours.encoders.features(faces).structure, expected)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_identities(scale: float, ours: Ours, theirs: Theirs) -> None:
    faces = crops(3)
    for references in (faces[:1], faces):
        found = ours.tokens.identities([references], scale)[0]
        expected = theirs.models.encoder.encode(references.float() / 255, scale)
        for half in ("cond", "uncond"):
            assert_near(found.tokens[half], expected.tokens[half])


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_noise_predictions(count: int, ours: Ours, theirs: Theirs) -> None:
    from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait

    timestep, faces = 500, crops(3)[:count]
    with torch.inference_mode():
        text = [theirs.clip.encode_from_tokens(theirs.clip.tokenize(prompt)) for prompt in PROMPTS]
        model = theirs.model
        if count:
            people = [theirs.models.encoder.encode(face[None].float() / 255, 0.3) for face in faces]
            model, _ = apply_uniportrait(model, theirs.models, people, UniPortraitSettings(id_scale=1.0))
        latents = torch.randn(1, SIZES.latent_channels, 16, 8, generator=torch.Generator().manual_seed(1))
        expected = predicted_by_comfyui(model, text, latents, timestep)
    with torch.no_grad():
        embedded = ours.text(PROMPTS)
        assert_near(embedded, torch.cat(text))
        call = None
        if count:
            identities = ours.tokens.identities([face[None] for face in faces], 0.3)
            tokens = torch.stack(
                [torch.stack([person.tokens[half] for person in identities]) for half in ("cond", "uncond")]
            )
            call = ours.host.prepare(tokens, "lora_single" if count == 1 else "lora_multi")
        found = ours.host(latents.repeat(2, 1, 1, 1), torch.full((2,), timestep), embedded, call)
    assert_near(found, torch.cat(expected), TOLERANCE)
    if count:
        plain = predicted_by_comfyui(theirs.model, text, latents, timestep)
        assert (plain[0] - expected[0]).abs().max() > 1000 * TOLERANCE  # the identities do something


def test_a_unet_trained_in_diffusers_goes_into_a_comfyui_checkpoint(
    ours: Ours, tiny_models: TinyModels, models_pack: Any, tmp_path: Path
) -> None:
    import comfy.sd

    original = load_file(tiny_models.paths[tiny_models.checkpoint])
    changed = {key: 1.1 * value for key, value in ours.unet.state_dict().items()}
    save_file({**original, **unet_to_original(changed)}, tmp_path / "trained.safetensors")
    loaded = comfy.sd.load_checkpoint_guess_config(str(tmp_path / "trained.safetensors"), output_vae=False)[0]
    weight = "middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    found = loaded.model.diffusion_model.get_parameter(weight)
    torch.testing.assert_close(
        found.float(), 1.1 * original["model.diffusion_model." + weight].float(), atol=1e-3, rtol=1e-3
    )
