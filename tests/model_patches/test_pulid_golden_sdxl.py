"""The published tiny UNet inside ComfyUI's own with the patch installed: every run of reference file 05."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from likeness.adapters.id_encoder import IDEncoder, IDEncoderSizes
from likeness.adapters.identity import Identity
from likeness.adapters.pulid_attention import Injection

TOLERANCE = 3e-5  # tests/golden/pulid/README.md


@pytest.fixture(scope="module")
def reference(golden: Any) -> Any:
    return golden("pulid", "05_sdxl_unet_tiny")


@pytest.fixture(scope="module")
def patcher(reference: Any, published_sdxl: Any) -> Any:
    """ComfyUI's UNet with the reference weights under ComfyUI's names."""
    return published_sdxl(reference.metadata["config"]["unet"], reference.weights("unet."))


@pytest.fixture(scope="module")
def models(reference: Any, released_pulid: Any) -> Any:
    context = reference.metadata["config"]["unet"]["cross_attention_dim"]
    encoder = IDEncoder(IDEncoderSizes(14, 10, (11, 9), (7, 13), 5, context))
    prefix = "id_adapter_attn_layers."
    layers = {prefix + key: value for key, value in reference.weights(prefix).items()}
    return released_pulid("pulid_v1", encoder, "id_adapter.", layers, {})


@pytest.fixture(scope="module")
def pairs(reference: Any) -> list[list[int]]:
    """The reference's rows two by two, so that each comes as the negative prompt's and as the positive one's."""
    rows = len(reference.inputs()["sample"])
    return [[(row - 1) % rows, row] for row in range(rows)]


@pytest.fixture(scope="module")
def person_of(reference: Any, models: Any) -> Callable[[list[int]], Identity]:
    """`person_of([0, 1])`: whose tokens in row 0 are nobody's; the reference has tokens of its own for each row."""

    def make(pair: list[int]) -> Identity:
        negative, positive = reference.inputs()["id_embedding"][pair]
        return Identity(models.system, models.weights.fingerprint, {"cond": positive, "uncond": negative})

    return make


def predict(model: Any, reference: Any, lab_of: Any, pair: list[int]) -> torch.Tensor:
    """The noise prediction for two of the reference's rows: the first is the negative prompt's."""
    inputs = {name: tensor[pair] for name, tensor in reference.inputs().items()}
    sigma = model.get_model_object("model_sampling").sigma(inputs["timestep"][:1]).reshape(1)
    time_ids = inputs["time_ids"].flatten()
    sizes = model.model.embedder(time_ids).reshape(len(inputs["time_ids"]), -1)
    labels = torch.cat([inputs["text_embeds"], sizes], dim=-1)
    text = inputs["encoder_hidden_states"]

    def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        x = inputs["sample"] * (sigma**2 + 1) ** 0.5  # ComfyUI's latents carry the noise level
        transformer_options = {
            **options["transformer_options"],
            "cond_or_uncond": [1, 0],
            "uuids": [guider.conds[name][0]["uuid"] for name in ("negative", "positive")],
            "sigmas": sigma,
        }
        denoised = guider.inner_model.apply_model(
            x, sigma.expand(len(x)), c_crossattn=text, y=labels, transformer_options=transformer_options
        )
        return (x - denoised) / sigma

    options = {"pooled_output": inputs["text_embeds"][:1]}
    lab, latent = lab_of(context=text.shape[-1]), inputs["sample"][:1]
    return lab.one_call(model, call, sigma, latent, [[text[1:], options]], [[text[:1], options]])


def injection_of(run: str) -> Injection:
    form, num_zero, scale = run.split(".", 2)
    return Injection(form, int(num_zero.removeprefix("nz")), float(scale.removeprefix("s")))


@pytest.mark.golden("pulid", "05_sdxl_unet_tiny", "noise_pred.")
def test_noise_prediction(
    reference: Any, patcher: Any, models: Any, person_of: Any, pairs: list[list[int]], lab_of: Any, golden_case: str
) -> None:
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    expected = reference.expected()[f"noise_pred.{golden_case}"]
    for pair in pairs:
        model = patcher
        if golden_case != "no_id":
            settings = PulidSettings(injection_of(golden_case))
            model, _ = apply_pulid(patcher, models, [person_of(pair)], settings)
        assert (predict(model, reference, lab_of, pair) - expected[pair]).abs().max() < TOLERANCE, pair


def test_the_middle_block_counts(
    reference: Any, patcher: Any, models: Any, person_of: Any, pairs: list[list[int]], lab_of: Any
) -> None:
    """The common port leaves its ten layers out: its key never matches."""
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    form, num_zero, scale = reference.metadata["config"]["runs"][0]
    settings, pair = PulidSettings(Injection(form, num_zero, scale)), pairs[-1]
    model, _ = apply_pulid(patcher, models, [person_of(pair)], settings)
    slots = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    middle = [key for key in slots if key[0] == "middle"]
    depth = reference.metadata["config"]["unet"]["transformer_layers_per_block"][-1]
    assert middle == [("middle", 0, index) for index in range(depth)]
    for key in middle:
        del slots[key]
    expected = reference.expected()[f"noise_pred.{form}.nz{num_zero}.s{scale}"][pair]
    assert (predict(model, reference, lab_of, pair) - expected).abs().max() > 10 * TOLERANCE
