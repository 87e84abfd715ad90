"""The sampling that PuLID v1.1 was published with, by ComfyUI's own samplers and schedules: reference file 10.

Which of them our workflows choose is asked of the workflows.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from likeness.demo.workflow import nodes_of, shipped_workflow

WORKFLOWS = ("pulid-sdxl-v1-1", "pulid-sdxl-two-people-with-masks", "pulid-sdxl-controlnet")
LIGHTNING = ("dpmpp_sde", "karras")  # what the note beside the workflow says for models of few steps
RELATIVE = 1e-5  # tests/golden/pulid/README.md: of the largest value


@pytest.fixture(scope="module")
def reference(golden: Any) -> Any:
    return golden("pulid", "10_v1_1_sampler")


@pytest.fixture(scope="module")
def model(make_sdxl: Any) -> Any:
    return make_sdxl()


def chosen(name: str) -> tuple[str, str]:
    """Sampler and scheduler of a workflow."""
    graph = shipped_workflow(name)
    (sampler,) = nodes_of(graph, "KSampler")
    return graph[sampler]["inputs"]["sampler_name"], graph[sampler]["inputs"]["scheduler"]


def sigmas_of(model: Any, scheduler: str, steps: int) -> torch.Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=RELATIVE * float(expected.abs().max()))


@pytest.mark.golden("pulid", "10_v1_1_sampler", "karras_sigmas.n")
@pytest.mark.parametrize("name", WORKFLOWS)
def test_noise_levels_and_timesteps(reference: Any, model: Any, name: str, golden_case: str) -> None:
    found = sigmas_of(model, chosen(name)[1], int(golden_case))
    assert_near(found, reference.expected()[f"karras_sigmas.n{golden_case}"])
    timesteps = model.get_model_object("model_sampling").timestep(found[:-1])
    assert torch.equal(timesteps, reference.expected()[f"karras_timesteps.n{golden_case}"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_an_ordinary_models_sampler(
    reference: Any, model: Any, run_toy: Callable[..., torch.Tensor], name: str
) -> None:
    sampler, scheduler = chosen(name)
    assert_near(run_toy(sampler, scheduler), reference.expected()["toy.dpmpp_2m"])


def test_the_sampler_for_lightning_models(reference: Any, run_toy: Callable[..., torch.Tensor]) -> None:
    """With every draw of its noise replaced by the reference's constant."""
    found = run_toy(*LIGHTNING, noise_sampler=lambda *_: torch.full_like(reference.inputs()["target"], 0.5))
    assert_near(found, reference.expected()["toy.dpmpp_sde_const_noise"])


@pytest.fixture
def run_toy(reference: Any, model: Any) -> Callable[..., torch.Tensor]:
    """`run_toy(sampler, scheduler)`: ComfyUI's sampler on the reference's toy denoiser and first schedule."""
    import comfy.samplers

    inputs, steps = reference.inputs(), reference.metadata["config"]["ns"][0]

    def denoise(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        return inputs["target"] + 0.3 * x / (1 + sigma.view(-1, 1, 1, 1))

    denoise.inner_model = SimpleNamespace(model_patcher=model)  # some samplers ask it for the schedule

    def run(sampler: str, scheduler: str, **options: Any) -> torch.Tensor:
        sigmas = sigmas_of(model, scheduler, steps)
        function = comfy.samplers.ksampler(sampler).sampler_function
        return function(denoise, inputs["x_init_noise"] * sigmas[0], sigmas, disable=True, **options)

    return run


def test_a_model_call(reference: Any, make_sdxl: Any, lab_of_base: Any) -> None:
    """What the network is given, and what ComfyUI's guidance makes of its two answers."""
    expected, guidance = reference.expected(), reference.metadata["config"]["cfg"]
    sigma, x = expected["call.sigma"], reference.inputs()["x_init_noise"]
    model, lab, seen = make_sdxl(), lab_of_base("SDXL"), []

    def network(x: torch.Tensor, timesteps: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
        kinds = options["transformer_options"]["cond_or_uncond"]
        seen.extend(zip(x.chunk(len(kinds)), timesteps.chunk(len(kinds)), strict=True))
        factors = torch.tensor([(0.7, 0.2)[kind] for kind in kinds])  # the reference's: positive, negative
        return x * factors.repeat_interleave(len(x) // len(kinds)).view(-1, 1, 1, 1)

    def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        guider.set_cfg(guidance)
        return guider.predict_noise(x, sigma, options, seed=5)

    model.add_object_patch("diffusion_model.forward", network)
    found = lab.one_call(model, call, sigma, x, lab.prompt(11), lab.prompt(12))
    assert_near(found, expected["call.denoised"])
    for given, timesteps in seen:
        assert_near(given, expected["call.unet_input"])
        assert torch.equal(timesteps.long(), expected["call.timestep"])
    assert len(seen) == 2
