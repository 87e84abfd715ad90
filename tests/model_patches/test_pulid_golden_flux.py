"""The published tiny FLUX inside ComfyUI's own with the patch installed: every run of reference file 06."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from likeness.adapters.flux_attention import HEADS_KEY as BLOCK_HEADS_KEY
from likeness.adapters.id_former import IDFormer, IDFormerSizes
from likeness.adapters.identity import Identity
from likeness.adapters.perceiver import HEADS_KEY
from likeness.adapters.pulid_attention import Injection

TOLERANCE = 2e-5  # tests/golden/pulid/README.md
PATCH_SIZE = 2


@pytest.fixture(scope="module")
def reference(golden: Any) -> Any:
    return golden("pulid", "06_flux_tiny")


@pytest.fixture(scope="module")
def patcher(reference: Any, make_flux: Any) -> Any:
    config = reference.metadata["config"]["flux"]
    channels = config["in_channels"] // PATCH_SIZE**2
    sizes = {**config, "in_channels": channels, "out_channels": channels, "patch_size": PATCH_SIZE}
    patcher = make_flux(**sizes)
    weights = patcher.model.model_config.process_unet_state_dict(reference.weights("flux."))
    patcher.model.diffusion_model.load_state_dict(weights, strict=True)
    return patcher


@pytest.fixture(scope="module")
def models(reference: Any, released_pulid: Any) -> Any:
    config = reference.metadata["config"]
    encoder = IDFormer(IDFormerSizes(14, 10, (11, 9), (7, 13), 12, 3, 4, 5, 32, config["kv_dim"], 2))
    blocks = {f"pulid_ca.{key}": value for key, value in reference.weights("pulid_ca.").items()}
    metadata = {HEADS_KEY: str(encoder.sizes.heads), BLOCK_HEADS_KEY: str(config["ca_heads"])}
    return released_pulid("pulid_flux", encoder, "pulid_encoder.", blocks, metadata)


@pytest.fixture(scope="module")
def person(reference: Any, models: Any) -> Identity:
    tokens = {
        name: reference.inputs()[f"{prefix}id_embedding"][0] for name, prefix in (("cond", ""), ("uncond", "uncond_"))
    }
    return Identity(models.system, models.weights.fingerprint, tokens)


def as_latent(reference: Any, tokens: torch.Tensor) -> torch.Tensor:
    """(b, rows·columns, channels·2·2) as FLUX packs it -> (b, channels, height, width)."""
    rows, columns = reference.metadata["config"]["hw_tokens"]
    blocks = tokens.unflatten(1, (rows, columns)).unflatten(-1, (-1, PATCH_SIZE, PATCH_SIZE))  # b, h, w, c, ph, pw
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def prompt(reference: Any, prefix: str = "") -> list[Any]:
    inputs, guidance = reference.inputs(), reference.metadata["config"]["guidance"]
    return [[inputs[f"{prefix}txt"], {"pooled_output": inputs[f"{prefix}y"], "guidance": guidance}]]


@pytest.mark.golden("pulid", "06_flux_tiny", "pred.")
def test_prediction(reference: Any, patcher: Any, models: Any, person: Identity, lab_of: Any, golden_case: str) -> None:
    import comfy.samplers
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    model = patcher
    if golden_case != "no_id":
        injection = Injection(scale=float(golden_case.removeprefix("id.w")))
        model, _ = apply_pulid(patcher, models, [person], PulidSettings(injection))
    sigma = reference.inputs()["timesteps"]
    latent = as_latent(reference, reference.inputs()["img"])

    def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        conds = [guider.conds["positive"]]
        (denoised,) = comfy.samplers.calc_cond_batch(guider.inner_model, conds, latent, sigma, options)
        return (latent - denoised) / sigma

    text = prompt(reference)
    found = lab_of().one_call(model, call, sigma, latent, text, text)
    expected = as_latent(reference, reference.expected()[f"pred.{golden_case}"])
    assert (found - expected).abs().max() < TOLERANCE


@pytest.fixture(scope="module")
def shifted(reference: Any, patcher: Any) -> Any:
    """The model with the schedule's shift set for the picture's size, as the workflows set it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    rows, columns = reference.metadata["config"]["hw_tokens"]
    return ModelSamplingFlux().patch(patcher, 1.15, 0.5, 16 * columns, 16 * rows)[0]


def test_the_schedule_is_comfyuis_simple_one(reference: Any, shifted: Any) -> None:
    import comfy.samplers

    steps, expected = reference.metadata["config"]["steps"], reference.expected()["schedule"].float()
    found = comfy.samplers.calculate_sigmas(shifted.get_model_object("model_sampling"), "simple", steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # ComfyUI's table has steps of 1e-4


@pytest.mark.golden("pulid", "06_flux_tiny", "denoise.")
def test_whole_runs(reference: Any, shifted: Any, models: Any, person: Identity, golden_case: str) -> None:
    """The published loop: Euler over the shifted schedule; true CFG only from one step on."""
    import comfy.samplers
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    config, inputs = reference.metadata["config"], reference.inputs()
    rows, columns = config["hw_tokens"]
    sigmas = reference.expected()["schedule"].float()
    start, _, guidance = golden_case.partition("_")
    first_step, steps = int(start.removeprefix("start")), config["steps"]
    settings = PulidSettings(Injection(scale=config["weights"][0]), start_percent=first_step / steps)
    model, _ = apply_pulid(shifted, models, [person], settings)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt(reference), prompt(reference, "neg_"))
    results = []

    def euler(net: Any, x: torch.Tensor, sigmas: Any, extra_args: Any, **_: Any) -> torch.Tensor:
        x = as_latent(reference, inputs["img"])
        for step in range(steps):
            guided = guidance == "truecfg" and step >= config["timestep_to_start_cfg"]
            guider.set_cfg(config["true_cfg"] if guided else 1.0)
            denoised = net(x, sigmas[step].expand(len(x)), **extra_args)
            x = x + (sigmas[step + 1] - sigmas[step]) * (x - denoised) / sigmas[step]
        results.append(x)
        return x

    noise = torch.zeros(1, config["flux"]["in_channels"] // 4, 2 * rows, 2 * columns)
    guider.sample(noise, noise, comfy.samplers.KSAMPLER(euler), sigmas, disable_pbar=True, seed=0)
    expected = as_latent(reference, reference.expected()[f"denoise.{golden_case}"])
    assert (results[0] - expected).abs().max() < TOLERANCE
