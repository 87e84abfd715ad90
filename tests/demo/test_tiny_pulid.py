"""The tiny SDXL and FLUX against ComfyUI's own classes, and PuLID's tiny files as the nodes read them."""

from __future__ import annotations

import logging

import pytest
import torch
from likeness.adapters.checkpoint import read_tensors
from likeness.adapters.layers import flux_places
from likeness.adapters.pulid import load_pulid
from likeness.demo import tiny_flux, tiny_layouts
from likeness.demo.tiny_pulid import FLUX_SCALE, FLUX_SHIFT, SDXL_SCALE, write_tiny_pulid_models
from likeness.demo.tiny_pulid_sizes import PulidSizes
from likeness.faces.eva_clip import EvaClip
from likeness.faces.parsing import FaceParser
from safetensors.torch import load_file

SIZES = PulidSizes()
PREFIX = "model.diffusion_model."
UNREAD = (".logit_scale", "clip_l.transformer.text_projection.weight")  # real checkpoints have none either


@pytest.fixture(scope="module", params=["sdxl", "flux"])
def loaded(request, tiny_pulid_models, models_pack):
    """Which model, its tensors, and what ComfyUI's loader makes of the file: a patcher, text encoders, the VAE."""
    import comfy.sd

    path = tiny_pulid_models.paths[getattr(tiny_pulid_models, request.param)]
    parts = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=True, output_clip=True)[:3]
    return request.param, load_file(path), parts


def missing_in(module, tensors):
    """Parameters of the module that none of the tensors filled."""
    given = [tensor.float() for tensor in tensors.values()]
    keys = []
    for key, value in module.state_dict().items():
        if not any(value.shape == other.shape and torch.equal(value.float(), other) for other in given):
            keys.append(key)
    return keys


def test_the_network_is_filled_exactly(loaded, models_pack):
    kind, tensors, (patcher, _, vae) = loaded
    tiny = {"sdxl": models_pack.TinySDXL, "flux": models_pack.TinyFlux}[kind]
    assert type(patcher.model.model_config) is tiny
    network = patcher.model.diffusion_model.state_dict()
    given = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    given = {
        key.replace("_norm.scale", "_norm.weight"): value for key, value in given.items()
    }  # ComfyUI's own renaming
    assert set(network) == set(given)
    assert all(torch.equal(network[key].float(), value.float()) for key, value in given.items())
    assert missing_in(vae.first_stage_model, tensors) == []


def test_the_text_encoders_are_filled_and_tell_prompts_apart(loaded):
    _, tensors, (_, clip, _) = loaded
    tensors = dict(tensors)
    for key in [key for key in tensors if "in_proj_" in key]:  # OpenCLIP joins three matrices, ComfyUI parts them
        tensors |= {f"{key}.{number}": part for number, part in enumerate(tensors.pop(key).chunk(3))}
    if "conditioner.embedders.1.model.text_projection" in tensors:
        tensors["projection"] = tensors.pop("conditioner.embedders.1.model.text_projection").T
    assert [key for key in missing_in(clip.cond_stage_model, tensors) if not key.endswith(UNREAD)] == []
    one, other = (clip.encode_from_tokens(clip.tokenize(text), return_dict=True) for text in ("a woman", "a blue car"))
    for name in ("cond", "pooled_output"):
        assert float((one[name] - other[name]).std()) > 0.2 * float(one[name].std())
    assert one["cond"].shape[-1] == {77: SIZES.sdxl.context, 256: SIZES.flux.t5.width}[one["cond"].shape[1]]


def test_every_place_of_pulid_is_there(loaded):
    from comfy.ldm.modules.attention import CrossAttention

    kind, _, (patcher, _, _) = loaded
    network = patcher.model.diffusion_model
    if kind == "flux":
        assert len(flux_places(len(network.double_blocks), len(network.single_blocks))) == 20
        assert network.num_heads == 4
    else:
        layers = [module for name, module in network.named_modules() if name.endswith("attn2")]
        assert len(layers) == 70 and all(isinstance(layer, CrossAttention) and layer.heads == 4 for layer in layers)


def test_latents_of_pictures_have_the_size_that_the_network_expects(loaded):
    _, _, (patcher, _, vae) = loaded
    scale, shift = (FLUX_SCALE, FLUX_SHIFT) if vae.latent_channels == 16 else (SDXL_SCALE, 0.0)
    assert patcher.model.latent_format.scale_factor == scale
    assert getattr(patcher.model.latent_format, "shift_factor", 0.0) == shift
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1).movedim(1, -1)
    with torch.inference_mode():
        latent = vae.encode(picture)
        decoded = vae.decode(latent)
    assert 0.3 < float(patcher.model.process_latent_in(latent)[:, :3].std()) < 2
    assert float((decoded - picture)[:, 16:-16, 16:-16].abs().mean()) < 0.06


def test_the_controlnet_fills_comfyuis_exactly(tiny_pulid_models, models_pack, caplog):
    import comfy.controlnet

    path = str(tiny_pulid_models.paths[tiny_pulid_models.controlnet])
    with caplog.at_level(logging.DEBUG):
        control = comfy.controlnet.load_controlnet(path)
    state = control.control_model.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == tiny_layouts.controlnet_shapes(SIZES.sdxl)
    assert all(torch.equal(state[key[14:]].float(), value.float()) for key, value in load_file(path).items())
    assert not [text for text in caplog.messages if "controlnet keys" in text]


@pytest.mark.parametrize(
    ("file", "edition"), [("v1", "pulid-v1"), ("v1_1", "pulid-v1.1"), ("pulid_flux", "pulid-flux")]
)
def test_pulids_files_have_the_released_layout(tiny_pulid_models, file, edition):
    adapter = load_pulid(tiny_pulid_models.paths[getattr(tiny_pulid_models, file)])
    assert adapter.sizes == SIZES.adapter(edition)
    assert len(adapter.state_dict()) == (250 if edition == "pulid-v1" else 312)


def test_what_sees_faces_tells_pictures_apart(tiny_pulid_models):
    paths = tiny_pulid_models.paths
    tower, parser = (
        read_tensors(paths[name]).tensors for name in (tiny_pulid_models.eva_clip, tiny_pulid_models.parser)
    )
    blobs = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = torch.nn.functional.interpolate(blobs, size=(512, 512), mode="bilinear")
    with torch.inference_mode():
        composites = FaceParser.from_state_dict(parser).composite(pictures)
        features = EvaClip.from_state_dict(tower).see(composites, antialias=True)
    kept = (composites != 1).float().mean((1, 2, 3))
    assert (kept > 0.1).all() and (kept < 0.9).all()
    assert float((features.projected @ features.projected.T - torch.eye(3)).max()) < 0.98
    assert all(float(hidden.std(0).mean()) > 0.1 * float(hidden.std()) for hidden in features.hidden)


def test_equal_seeds_give_equal_bytes_and_whole_files_are_left_alone(tiny_pulid_models, tmp_path):
    again, other = (write_tiny_pulid_models(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    for name, path in tiny_pulid_models.paths.items():
        assert again.paths[name].read_bytes() == path.read_bytes()
        assert (other.paths[name].read_bytes() == path.read_bytes()) == (name == other.recogniser)
    before = {path: path.stat().st_mtime_ns for path in again.paths.values()}
    assert write_tiny_pulid_models(tmp_path / "0") == again
    assert {path: path.stat().st_mtime_ns for path in again.paths.values()} == before


def test_the_tables_have_every_key_of_the_released_ones():
    from likeness.demo.tiny_pulid_sizes import RELEASED_PULID_SIZES

    assert set(tiny_flux.flux_shapes(SIZES.flux)) == set(tiny_flux.flux_shapes(RELEASED_PULID_SIZES.flux))
    levels = tuple(f"input_blocks.{number}.0.skip_connection" for number in (4, 7))  # between levels of one width
    for table in (tiny_layouts.unet_shapes, tiny_layouts.controlnet_shapes):
        released = {key for key in table(RELEASED_PULID_SIZES.sdxl) if not key.startswith(levels)}
        assert set(table(SIZES.sdxl)) == released
