"""From aligned crops to what the UNet gets, with ComfyUI's own CLIP vision tower and memory manager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from likeness.adapters.checkpoint import save_tensors
from likeness.adapters.identity import Identity, mix_identities
from likeness.adapters.layers import SD15_LAYERS
from likeness.adapters.perceiver import HEADS_KEY
from likeness.adapters.uniportrait import load_uniportrait
from likeness.faces.backbone import IRBackbone

TOLERANCE = 5e-5  # tests/golden/uniportrait/README.md


@pytest.fixture(scope="module")
def reference(golden: Any) -> Any:
    return golden("uniportrait", "face_embedding")


@pytest.fixture(scope="module")
def clip_vision(reference: Any) -> Any:
    import comfy.clip_vision

    config = dict(reference.metadata["config"]["clip"], model_type="clip_vision_model", num_channels=3)
    tower = comfy.clip_vision.ClipVisionModel(config)
    weights = reference.weights("clip.")
    missing, unexpected = tower.model.load_state_dict(weights, strict=False)
    assert not missing and all("position_ids" in key for key in unexpected), (missing, unexpected)
    return tower


@pytest.fixture(scope="module")
def encoder(reference: Any, clip_vision: Any, tmp_path_factory: Any) -> Any:
    import comfy.ops
    from likeness.model_patches.uniportrait_encoder import UniPortraitEncoder

    sizes, folder = reference.metadata["config"]["resampler"], tmp_path_factory.mktemp("adapters")
    context = sizes["output_dim"]
    paths: dict[str, Path] = {slot: folder / f"{slot}.safetensors" for slot in ("faceid", "image_prompt")}
    resampler = {f"faceid_proj.{key}": value for key, value in reference.weights("faceid_proj.").items()}
    save_tensors(paths["faceid"], {**resampler, **layer_weights(context)}, {HEADS_KEY: str(sizes["heads"])})
    image = {f"image_proj.{key}": value for key, value in reference.weights("image_proj.").items()}
    save_tensors(paths["image_prompt"], {**image, **ip_weights(context)}, {})
    weights = load_uniportrait(**paths, operations=comfy.ops.manual_cast)
    backbone = IRBackbone.from_state_dict(reference.weights("backbone."), operations=comfy.ops.manual_cast)
    return UniPortraitEncoder(weights, backbone, clip_vision)


def layer_weights(context: int, width: int = 8) -> dict[str, torch.Tensor]:
    """The layers of a faceid file, which the reference file of this test leaves out."""
    tensors = {}
    for layer in SD15_LAYERS:
        wide = context if layer.is_cross else width
        for name, size in (("q", width), ("k", wide), ("v", wide), ("out", width)):
            tensors[f"faceid_adapter.{layer.number}.to_{name}_lora.down.weight"] = torch.zeros(2, size)
            tensors[f"faceid_adapter.{layer.number}.to_{name}_lora.up.weight"] = torch.zeros(width, 2)
        for name in ("k", "v") if layer.is_cross else ():
            tensors[f"faceid_adapter.{layer.number}.to_{name}_faceid.weight"] = torch.zeros(width, context)
    return tensors


def ip_weights(context: int, width: int = 8) -> dict[str, torch.Tensor]:
    return {
        f"ip_adapter.{layer.number}.to_{name}_ip.weight": torch.zeros(width, context)
        for layer in SD15_LAYERS
        if layer.is_cross
        for name in "kv"
    }


def crops(reference: Any, numbers: list[int]) -> torch.Tensor:
    """(k, 224, 224, 3) in [0, 1], as ComfyUI's IMAGE."""
    return reference.inputs()["face_crops"][numbers].movedim(1, -1).float() / 255


def test_all_cases_are_covered(reference: Any) -> None:
    kinds = {"images", "cond_faceids"}
    assert all(kinds & set(case) for case in reference.metadata["cases"].values())


@pytest.mark.golden("uniportrait", "face_embedding")
def test_tokens_of_every_case(reference: Any, encoder: Any, golden_case: str) -> None:
    case, expected = reference.metadata["cases"][golden_case], reference.expected(golden_case)
    scale = case["face_structure_scale"]
    if "images" in case:
        identity = encoder.encode(crops(reference, case["images"]), scale)
        assert (identity.tokens["cond"] - expected["tokens"][0]).abs().max() < TOLERANCE
        if "uncond_tokens" in expected:
            assert (identity.tokens["uncond"] - expected["uncond_tokens"][0]).abs().max() < TOLERANCE
        return
    people = [person(reference, encoder, entry, scale) for entry in case["cond_faceids"]]
    context = expected["prompt_embeds"].shape[-1]
    image = image_tokens(reference, encoder, case["ip_image"], context)
    for name, half, ip in (("prompt_embeds", "cond", image[0]), ("negative_prompt_embeds", "uncond", image[1])):
        found = torch.cat([ip, *(one.tokens[half] for one in people)])
        assert (found - expected[name][0, -len(found) :]).abs().max() < TOLERANCE


def person(reference: Any, encoder: Any, entry: dict[str, Any], scale: float) -> Identity:
    main = encoder.encode(crops(reference, entry["refs"]), scale)
    others = [encoder.encode(crops(reference, [number]), scale) for number in entry.get("mix_refs", [])]
    return mix_identities(main, list(zip(others, entry.get("mix_scales", []), strict=True)))


def image_tokens(reference: Any, encoder: Any, number: int | None, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    if number is None:
        num_tokens = reference.metadata["config"]["num_ip_tokens"]
        return torch.zeros(num_tokens, context), torch.zeros(num_tokens, context)
    return encoder.image_prompt_tokens(crops(reference, [number]))


def test_the_order_of_references_does_not_matter(reference: Any, encoder: Any) -> None:
    forward, backward = (encoder.encode(crops(reference, numbers), 0.3) for numbers in ([0, 1, 2], [2, 1, 0]))
    torch.testing.assert_close(forward.tokens["cond"], backward.tokens["cond"], atol=1e-5, rtol=1e-5)
    assert torch.equal(forward.tokens["uncond"], encoder.encode(crops(reference, [0]), 0.3).tokens["uncond"])


def test_many_references_are_encoded_in_parts(reference: Any, encoder: Any) -> None:
    twenty = encoder.encode(crops(reference, [0] * 20), 1.0)
    one = encoder.encode(crops(reference, [0]), 1.0)
    assert torch.equal(twenty.tokens["uncond"], one.tokens["uncond"])
    assert torch.isfinite(twenty.tokens["cond"]).all()


def test_a_tower_of_another_width_is_named(reference: Any, encoder: Any) -> None:
    import comfy.clip_vision
    from likeness.model_patches.uniportrait_encoder import UniPortraitEncoder

    config = dict(reference.metadata["config"]["clip"], hidden_size=48, model_type="clip_vision_model", num_channels=3)
    with pytest.raises(ValueError, match="gives 48-wide features.*ViT-H/14"):
        UniPortraitEncoder(encoder.weights, encoder.backbone.model, comfy.clip_vision.ClipVisionModel(config))


def test_a_backbone_of_another_width_is_named(encoder: Any) -> None:
    from likeness.model_patches.uniportrait_encoder import UniPortraitEncoder

    backbone = IRBackbone(widths=(8, 8, 8, 16), units=(1, 1, 1, 1), embedding=4)
    with pytest.raises(ValueError, match="gives 16-wide features.*glint360k"):
        UniPortraitEncoder(encoder.weights, backbone, encoder.clip_vision)
