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
    metadata = {HEADS_KEY: "3", BLOCK_HEADS_KEY: str(config["ca_heads"])}
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


@pytest.mark.parametrize("run", ["no_id", "id.w1.0", "id.w0.6"])
def test_prediction(reference: Any, patcher: Any, models: Any, person: Identity, lab_of: Any, run: str) -> None:
    import comfy.samplers
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    model = patcher
    if run != "no_id":
        injection = Injection(scale=float(run.split(".w")[1]))
        model, _ = apply_pulid(patcher, models, [person], PulidSettings(injection))
    sigma = reference.inputs()["timesteps"]
    latent = as_latent(reference, reference.inputs()["img"])

    def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        conds = [guider.conds["positive"]]
        (denoised,) = comfy.samplers.calc_cond_batch(guider.inner_model, conds, latent, sigma, options)
        return (latent - denoised) / sigma

    text = prompt(reference)
    found = lab_of().one_call(model, call, sigma, latent, text, text)
    expected = as_latent(reference, reference.expected()[f"pred.{run}"])
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("run", ["start0", "start2", "start1_truecfg"])
def test_whole_runs(reference: Any, patcher: Any, models: Any, person: Identity, run: str) -> None:
    """The published loop: Euler over the shifted schedule; true CFG only from one step on."""
    import comfy.samplers
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    config, inputs = reference.metadata["config"], reference.inputs()
    rows, columns = config["hw_tokens"]
    (shifted,) = ModelSamplingFlux().patch(patcher, 1.15, 0.5, 16 * columns, 16 * rows)
    sigmas = reference.expected()["schedule"].float()
    first_step, steps = int(run[5]), config["steps"]
    settings = PulidSettings(Injection(scale=config["weights"][0]), start_percent=first_step / steps)
    model, _ = apply_pulid(shifted, models, [person], settings)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt(reference), prompt(reference, "neg_"))
    results = []

    def euler(net: Any, x: torch.Tensor, sigmas: Any, extra_args: Any, **_: Any) -> torch.Tensor:
        x = as_latent(reference, inputs["img"])
        for step in range(steps):
            guided = run.endswith("truecfg") and step >= config["timestep_to_start_cfg"]
            guider.set_cfg(config["true_cfg"] if guided else 1.0)
            denoised = net(x, sigmas[step].expand(len(x)), **extra_args)
            x = x + (sigmas[step + 1] - sigmas[step]) * (x - denoised) / sigmas[step]
        results.append(x)
        return x

    noise = torch.zeros(1, config["flux"]["in_channels"] // 4, 2 * rows, 2 * columns)
    guider.sample(noise, noise, comfy.samplers.KSAMPLER(euler), sigmas, disable_pbar=True, seed=0)
    expected = as_latent(reference, reference.expected()[f"denoise.{run}"])
    assert (results[0] - expected).abs().max() < TOLERANCE
