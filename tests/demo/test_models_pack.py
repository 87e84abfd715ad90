"""The tiny files against ComfyUI's own classes: every key and shape, loaded the way the stock loaders do."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from likeness.demo import tiny_flux, tiny_layouts
from likeness.demo.tiny_pulid_sizes import RELEASED_PULID_SIZES, PulidSizes
from likeness.demo.tiny_sizes import RELEASED_SIZES, TinySizes
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("models_pack")
SIZES = TinySizes()


def shapes_of(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def assert_holds(module, tensors, prefix):
    """Every tensor of the file below `prefix` is in the module, with the file's values."""
    state = module.state_dict()
    below = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    assert below
    for key, value in below.items():
        assert torch.equal(state[key].float(), value.float()), key


@pytest.fixture(scope="module")
def checkpoint(tiny_models, models_pack):
    import comfy.sd

    path = str(tiny_models.paths[tiny_models.checkpoint])
    return comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=True)[:3]


def test_the_checkpoint_fills_comfyuis_sd15_exactly(checkpoint, tiny_models, models_pack):
    patcher, clip, vae = checkpoint
    tensors = load_file(tiny_models.paths[tiny_models.checkpoint])
    assert type(patcher.model.model_config) is models_pack.TinySD15
    assert shapes_of(patcher.model.diffusion_model) == tiny_layouts.unet_shapes(SIZES)
    assert_holds(patcher.model.diffusion_model, tensors, "model.diffusion_model.")
    assert shapes_of(vae.first_stage_model) == tiny_layouts.taesd_shapes(SIZES)
    assert_holds(vae.first_stage_model, tensors, "first_stage_model.")
    text = clip.cond_stage_model.clip_l.transformer
    projection = {"text_projection.weight": (SIZES.context, SIZES.context)}  # SD 1.5 checkpoints have none
    assert shapes_of(text) == tiny_layouts.text_shapes(SIZES) | projection
    assert_holds(text, tensors, "cond_stage_model.transformer.")
    assert len(tensors) == len(tiny_layouts.checkpoint_shapes(SIZES))


def test_the_unet_has_eight_heads_everywhere(checkpoint):
    from comfy.ldm.modules.attention import CrossAttention

    unet = checkpoint[0].model.diffusion_model
    layers = [module for module in unet.modules() if isinstance(module, CrossAttention)]
    assert len(layers) == 32
    assert {layer.heads for layer in layers} == {8}


def test_prompts_are_told_apart(checkpoint):
    clip = checkpoint[1]
    one, other = (clip.encode_from_tokens(clip.tokenize(text)) for text in ("a photo of a woman", "a blue car"))
    assert one.shape == (1, 77, SIZES.context)
    assert float((one - other).std()) > 0.2 * float(one.std())


def test_the_controlnet_fills_comfyuis_exactly(tiny_models, caplog):
    import comfy.controlnet

    path = str(tiny_models.paths[tiny_models.controlnet])
    with caplog.at_level(logging.DEBUG):
        control = comfy.controlnet.load_controlnet(path)
    assert shapes_of(control.control_model) == tiny_layouts.controlnet_shapes(SIZES)
    assert_holds(control.control_model, load_file(path), "control_model.")
    assert not [r for r in caplog.messages if "missing controlnet keys" in r or "unexpected controlnet keys" in r]


def test_the_clip_vision_tower_loads_and_gives_a_16_x_16_grid(tiny_models, models_pack, monkeypatch):
    import folder_paths

    path = tiny_models.paths[tiny_models.clip_vision]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", ([str(path.parent)], {".safetensors"}))
    (model,) = models_pack.LoadCLIPVision.execute(path.name).args
    assert shapes_of(model.model) == tiny_layouts.vision_shapes(SIZES)
    assert_holds(model.model, load_file(path), "")
    pictures = torch.rand(2, 96, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model.encode_image(pictures, crop=False)
    assert output["penultimate_hidden_states"].shape == (2, 256 + 1, SIZES.vision_width)
    assert output["image_embeds"].shape == (2, SIZES.vision_projection)
    first, second = output["penultimate_hidden_states"]
    assert float((first - second).std()) > 0.1 * float(first.std())


def test_another_file_is_refused_with_its_name(tiny_models, models_pack, monkeypatch):
    import folder_paths

    path = tiny_models.paths[tiny_models.controlnet]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", ([str(path.parent)], {".safetensors"}))
    with pytest.raises(ValueError, match=f"{path.name} is not a CLIP vision tower"):
        models_pack.LoadCLIPVision.execute(path.name)


REAL = {
    "SD15": tiny_layouts.unet_shapes(RELEASED_SIZES),
    "SDXL": tiny_layouts.unet_shapes(RELEASED_PULID_SIZES.sdxl),
    "Flux": tiny_flux.flux_shapes(RELEASED_PULID_SIZES.flux),
}


@pytest.mark.parametrize("family", REAL)
def test_real_models_are_recognised_as_before(family, models_pack):
    import comfy.model_detection
    import comfy.supported_models

    shapes = tiny_layouts.under("model.diffusion_model.", REAL[family])
    real = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    config = comfy.model_detection.model_config_from_unet(real, "model.diffusion_model.")
    assert type(config) is getattr(comfy.supported_models, family)
    assert comfy.supported_models.models.count(getattr(models_pack, f"Tiny{family}")) == 1


@pytest.mark.parametrize("sizes", [TinySizes(model_channels=96), replace(PulidSizes().sdxl, model_channels=96)])
def test_models_of_other_widths_stay_unknown(sizes):
    import comfy.model_detection

    shapes = tiny_layouts.unet_shapes(sizes)
    other = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert comfy.model_detection.model_config_from_unet(other, "") is None


def test_a_picture_comes_back_from_the_latent_blurred(checkpoint):
    vae = checkpoint[2]
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1).movedim(1, -1)
    with torch.inference_mode():
        latent = vae.encode(picture)
        decoded = vae.decode(latent)
    assert latent.shape == (1, 8, 16, 16)
    assert 0.3 < float((latent * 0.18215).std()) < 2
    assert float((decoded - picture)[:, 16:-16, 16:-16].abs().mean()) < 0.06
