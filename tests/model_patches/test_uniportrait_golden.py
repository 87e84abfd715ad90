"""The published tiny UNet inside ComfyUI's own UNet with the patch installed: every case of the reference file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from likeness.adapters.checkpoint import save_tensors
from likeness.adapters.identity import Identity
from likeness.adapters.layers import SD15_LAYERS
from likeness.adapters.perceiver import HEADS_KEY
from likeness.adapters.resampler import IDResampler, ResamplerSizes
from likeness.adapters.sharing import Sharing
from likeness.adapters.uniportrait import load_uniportrait

TOLERANCE = 1e-4  # tests/golden/uniportrait/README.md


@pytest.fixture(scope="module")
def reference(golden: Any) -> Any:
    return golden("uniportrait", "unet_tiny")


@pytest.fixture(scope="module")
def patcher(reference: Any, make_sd15: Any) -> Any:
    """ComfyUI's UNet with the reference weights under ComfyUI's names."""
    import comfy.utils

    config = reference.metadata["config"]["unet"]
    model = make_sd15(config["block_out_channels"], config["cross_attention_dim"], config["attention_head_dim"])
    unet = model.model.diffusion_model
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    weights = reference.weights("unet.")
    renamed = {names[key]: weights[key] for key in weights}
    unet.load_state_dict(renamed, strict=True)
    return model


@pytest.fixture(scope="module")
def models(reference: Any, tmp_path_factory: Any) -> Any:
    """The reference adapters, through the files and the loader that users have; the resampler is not in this file."""
    import comfy.ops
    from likeness.model_patches.uniportrait_models import UniPortraitModels

    config = reference.metadata["config"]
    sizes = ResamplerSizes(24, 40, 48, 1, 3, 16, config["num_faceid_tokens"], config["unet"]["cross_attention_dim"], 2)
    resampler = {f"faceid_proj.{key}": value for key, value in IDResampler(sizes).state_dict().items()}
    folder = tmp_path_factory.mktemp("adapters")
    context, num_ip = config["unet"]["cross_attention_dim"], config["num_ip_tokens"]
    image_proj = {
        "image_proj.proj.weight": torch.zeros(num_ip * context, 24),
        "image_proj.proj.bias": torch.zeros(num_ip * context),
        "image_proj.norm.weight": torch.ones(context),
        "image_proj.norm.bias": torch.zeros(context),
    }
    files = {
        "faceid": (reference.weights("uniportrait-faceid_sd15/"), resampler, {HEADS_KEY: "3"}),
        "router": (reference.weights("uniportrait-router_sd15/"), {}, {}),
        "image_prompt": (reference.weights("ip-adapter_sd15/"), image_proj, {}),
    }
    paths: dict[str, Path] = {}
    for slot, (tensors, extra, metadata) in files.items():
        paths[slot] = folder / f"{slot}.safetensors"
        save_tensors(paths[slot], {**tensors, **extra}, metadata)
    return UniPortraitModels(load_uniportrait(**paths, operations=comfy.ops.manual_cast))


@pytest.mark.golden("uniportrait", "unet_tiny")
def test_noise_prediction_and_routing(reference: Any, patcher: Any, models: Any, lab_of: Any, golden_case: str) -> None:
    inputs, expected = reference.inputs(golden_case), reference.expected(golden_case)
    scales = reference.metadata["cases"][golden_case]
    count, half = scales["num_faceids"], inputs["sample"].shape[0] // 2
    model, record = patcher, None
    if count or scales.get("ip_scale", 0) > 0:
        model, record = patched(patcher, models, inputs, scales)
    timestep = inputs["timestep"].reshape(1)
    sigma = patcher.get_model_object("model_sampling").sigma(timestep).reshape(1)
    text = inputs["text_tokens"]

    def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        # The rows in the reference's order: the negative half first.
        x = inputs["sample"] * (sigma**2 + 1) ** 0.5  # ComfyUI's latents carry the noise level
        transformer_options = {
            **options["transformer_options"],
            "cond_or_uncond": [1, 0],
            "uuids": [guider.conds[name][0]["uuid"] for name in ("negative", "positive")],
            "sigmas": sigma,
        }
        denoised = guider.inner_model.apply_model(
            x, sigma.expand(2 * half), c_crossattn=text, transformer_options=transformer_options
        )
        return (x - denoised) / sigma

    lab = lab_of(context=text.shape[-1])
    latent = inputs["sample"][:half]
    noise_pred = lab.one_call(model, call, sigma, latent, [[text[half:], {}]], [[text[:half], {}]])
    assert (noise_pred - expected["noise_pred"]).abs().max() < TOLERANCE
    if record is not None and "faceid_mask" not in inputs:  # where masks decide, the router is not evaluated
        check_routing(record, expected)


def patched(patcher: Any, models: Any, inputs: dict[str, torch.Tensor], scales: dict[str, Any]) -> Any:
    from likeness.model_patches.uniportrait import ImagePrompt, UniPortraitSettings, apply_uniportrait

    count, half = scales["num_faceids"], inputs["sample"].shape[0] // 2
    blocks = inputs["faceid_tokens"].unflatten(1, (count, -1))  # (rows, N, m, D): the same people in every row
    identities = [
        Identity("uniportrait", models.weights.fingerprint, {"cond": blocks[half, k], "uncond": blocks[0, k]})
        for k in range(count)
    ]
    image_prompt = None
    if scales.get("ip_scale", 0) > 0:
        mask = inputs["ip_mask"][0, 0] if "ip_mask" in inputs else None
        image_prompt = ImagePrompt(inputs["ip_tokens"][half], inputs["ip_tokens"][0], scales["ip_scale"], mask)
    masks = tuple(inputs["faceid_mask"][0]) if "faceid_mask" in inputs else ()
    sharing = None
    if scales.get("enable_share_attn"):
        sharing = Sharing(
            scales.get("shared_score_shift", 0.0),
            scales.get("shared_score_scale", 1.0),
            scales.get("adain_queries_and_keys", False),
        )
    settings = UniPortraitSettings(
        id_scale=scales.get("faceid_scale", 0.0),
        lora_scale=scales.get("lora_scale" if count == 1 else "multi_id_lora_scale", 0.0),
        masks=masks,
        image_prompt=image_prompt,
        sharing=sharing,
    )
    return apply_uniportrait(patcher, models, identities, settings)


def check_routing(record: Any, expected: dict[str, torch.Tensor]) -> None:
    indices = {name: value for name, value in expected.items() if name.startswith("router_index.")}
    if not indices:
        assert not record.maps
        return
    assert len(indices) == sum(layer.is_cross for layer in SD15_LAYERS)
    for name, index in indices.items():
        drawn = record.maps[0][int(name.split(".")[1])]
        assert torch.equal(drawn.flatten(1), index.reshape(drawn.shape[0], -1)), name
