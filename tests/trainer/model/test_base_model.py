"""Base models from folders and files, and what is refused."""

from __future__ import annotations

import json
import shutil

import diffusers
import pytest
import torch
from likeness.adapters.checkpoint import Checkpoint, save_tensors
from likeness.demo.tiny_layouts import text_shapes, under, unet_shapes
from likeness.demo.tiny_sizes import RELEASED_SIZES
from likeness.trainer.model import single_file
from likeness.trainer.model.base_model import load_base_model
from likeness.trainer.model.latents import NO_SPREAD, LatentEncoder, load_latent_encoder
from likeness.trainer.model.original_layout import PREFIX
from likeness.trainer.model.text import CACHED_TEXTS, clip_tokenizer, folder_tokenizer


def without_memory(shapes):
    """Tensors of these shapes that share one number, so that files of gigabytes cost nothing."""
    return {key: torch.zeros(1, dtype=torch.float16).expand(shape) for key, shape in shapes.items()}


def test_a_folder_of_any_sizes(base, world):
    assert base.prediction_type == "epsilon" and base.name == "base"
    assert base.alphas_cumprod.shape == (1000,) and base.alphas_cumprod.dtype == torch.float64
    assert (base.latents.channels, base.latents.downscale, base.latents.factor) == (4, 4, 1.0)
    assert base.text(["a", "b"]).shape == (2, 77, 32)
    assert not any(p.requires_grad for m in (base.unet, base.text.model, base.vae.vae) for p in m.parameters())
    half = load_base_model(world / "base", "cpu", torch.bfloat16, vae=False)
    assert half.dtype == torch.bfloat16 and half.vae is None and half.latents == base.latents


def test_texts_are_remembered_and_padded_with_the_end_token(base):
    tokens = clip_tokenizer(77)(["a red shirt", ""])
    assert tokens.shape == (2, 77)
    assert tokens[0, :5].tolist() == [49406, 320, 736, 2523, 49407] and (tokens[0, 4:] == 49407).all()
    assert (tokens[1, 1:] == 49407).all()
    assert clip_tokenizer(77)(["long " * 200])[0, -1] == 49407
    first = base.text(["x", "y", "x"])
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    base.text([f"text {number}" for number in range(CACHED_TEXTS + 1)])
    torch.testing.assert_close(base.text(["x"])[0], first[0])
    assert len(base.text._known) == CACHED_TEXTS


def test_a_folders_own_tokenizer_says_the_same(tmp_path):
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    clip = SimpleTokenizer()
    vocabulary = {piece: number for number, piece in clip.decoder.items()}
    vocabulary["<|startoftext|>"] = vocabulary.pop("<start_of_text>")
    vocabulary["<|endoftext|>"] = vocabulary.pop("<end_of_text>")
    merges = [" ".join(pair) for pair in clip.bpe_ranks]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True).save_pretrained(tmp_path / "saved")
    texts = ["Two people, one in a red shirt; blue background!", "", "smiling man's 3 hats " * 40]
    assert torch.equal(folder_tokenizer(tmp_path / "saved", 77)(texts), clip_tokenizer(77)(texts))


def test_latents_are_scaled_in_one_place(tmp_path):
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(**sizes, **kinds, scaling_factor=0.3, shift_factor=0.1).save_pretrained(tmp_path / "vae")
    vae = load_latent_encoder(tmp_path, "cpu", torch.float32)
    assert load_latent_encoder(tmp_path / "vae", "cpu", torch.bfloat16).fingerprint == vae.fingerprint
    pixels = torch.rand(2, 3, 16, 8) * 2 - 1
    mean, logvar = vae(pixels)
    posterior = vae.vae.encode(pixels).latent_dist
    assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
    noise = torch.randn(mean.shape)
    latents = vae.format.sampled(mean, logvar, noise)
    torch.testing.assert_close(latents, (mean + posterior.std * noise - 0.1) * 0.3)
    decoded = vae.vae.decode(latents / 0.3 + 0.1).sample.clamp(-1, 1)
    torch.testing.assert_close(vae.decode(latents), decoded)
    assert vae.format.size(16, 8) == (8, 4)
    with pytest.raises(ValueError, match="multiples of 2"):
        vae.format.size(17, 8)


def test_a_tiny_autoencoder_has_no_spread(base):
    mean, logvar = base.vae(torch.zeros(1, 3, 32, 16))
    assert mean.shape == (1, 4, 8, 4) and (logvar == NO_SPREAD).all()
    torch.testing.assert_close(base.latents.sampled(mean, logvar, torch.full_like(mean, 3.0)), mean, atol=1e-5, rtol=0)


def test_sd15_files_have_exactly_these_tensors(comfyui_path):
    """Tables of the demo for U-Net and text, ComfyUI's own class for the VAE."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(ddconfig=vae_sizes(128), embed_dim=4)
    shapes = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    shapes = under(single_file.VAE_PREFIX, shapes) | under(PREFIX, unet_shapes(RELEASED_SIZES))
    shapes |= under(single_file.TEXT_PREFIX, text_shapes(RELEASED_SIZES))
    from pathlib import Path

    file = Checkpoint(Path("sd15.safetensors"), without_memory(shapes))
    assert sum(value.numel() for value in single_file.unet_of(file).parameters()) == 859_520_964
    assert sum(value.numel() for value in single_file.vae_of(file).parameters()) == 83_653_863
    assert sum(value.numel() for value in single_file.text_of(file).parameters()) == 123_060_480
    broken = Checkpoint(file.path, {**file.tensors, PREFIX + "input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)})
    with pytest.raises(ValueError, match="9 input channels"):
        single_file.unet_of(broken)
    narrow = Checkpoint(file.path, {**file.tensors, PREFIX + "time_embed.0.bias": torch.zeros(7)})
    with pytest.raises(ValueError, match="does not fit SD 1.5.*time_embedding.linear_1.bias"):
        single_file.unet_of(narrow)
    unet_alone = Checkpoint(file.path, {k: v for k, v in file.tensors.items() if k.startswith(PREFIX)})
    for part in (single_file.vae_of, single_file.text_of):
        with pytest.raises(ValueError, match="choose a full checkpoint"):
            part(unet_alone)


def vae_sizes(width):
    return {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def test_the_vae_of_a_file_computes_what_comfyuis_does(comfyui_path):
    from pathlib import Path

    from comfy.ldm.models.autoencoder import AutoencoderKL

    theirs = AutoencoderKL(ddconfig=vae_sizes(32), embed_dim=4).eval()
    generator = torch.Generator().manual_seed(0)
    state = {key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    config = {**single_file.VAE, "block_out_channels": (32, 64, 128, 128)}
    file = Checkpoint(Path("x.safetensors"), under(single_file.VAE_PREFIX, state))
    ours = LatentEncoder(single_file.vae_of(file, config))
    pixels = torch.rand(1, 3, 32, 16, generator=generator) * 2 - 1
    with torch.no_grad():
        moments = theirs.quant_conv(theirs.encoder(pixels))
        torch.testing.assert_close(ours(pixels)[0], moments.chunk(2, 1)[0], atol=1e-4, rtol=1e-4)
        latents = torch.randn(1, 4, 4, 2, generator=generator)
        decoded = theirs.decode(latents / 0.18215).clamp(-1, 1)
        torch.testing.assert_close(ours.decode(latents), decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "shape", "what"),
    [
        (PREFIX + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (640, 2048), "an SDXL checkpoint"),
        (PREFIX + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (320, 1024), "an SD 2 checkpoint"),
        ("double_blocks.0.img_attn.qkv.weight", (9216, 3072), "a FLUX diffusion model"),
        ("lora_unet_x.lora_up.weight", (4, 4), "an ordinary LoRA"),
        ("something", (2,), "no model that Likeness knows"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", (320, 768), "a U-Net alone"),
    ],
)
def test_other_files_are_named(key, shape, what, tmp_path):
    path = tmp_path / "other.safetensors"
    save_tensors(path, without_memory({key: shape}), {})
    with pytest.raises(ValueError, match=f"other.safetensors.*{what}"):
        load_base_model(path, "cpu", torch.float32)


def test_other_folders_are_named(world, tmp_path, write_base_model):
    with pytest.raises(ValueError, match="does not exist"):
        load_base_model(tmp_path / "nowhere", "cpu", torch.float32)
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}', "utf-8")
    with pytest.raises(ValueError, match="is a FluxPipeline: it has no unet folder"):
        load_base_model(tmp_path / "flux", "cpu", torch.float32)
    shutil.copytree(world / "base", tmp_path / "xl")
    config = json.loads((tmp_path / "xl" / "unet" / "config.json").read_text("utf-8"))
    config["addition_embed_type"] = "text_time"
    (tmp_path / "xl" / "unet" / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="SDXL"):
        load_base_model(tmp_path / "xl", "cpu", torch.float32)
    for name, changes, message in (
        ("linear", {"use_linear_projection": True}, "of SD 2's kind"),
        ("wide", {"cross_attention_dim": 48}, "reads 48-wide text and its text encoder gives 32"),
        ("sample", {"prediction_type": "sample"}, "predicts sample"),
        ("inpaint", {"in_channels": 9}, "reads 9 channels"),
    ):
        folder = write_base_model(tmp_path / name, **changes)
        with pytest.raises(ValueError, match=message):
            load_base_model(folder, "cpu", torch.float32)
    shutil.rmtree(tmp_path / "wide" / "vae")
    with pytest.raises(ValueError, match="holds no VAE"):
        load_latent_encoder(tmp_path / "wide", "cpu", torch.float32)
