"""From which step on UniID's strong scales count, as real sampling runs use them (spec 7 and 7.1)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

# Between which timesteps step 5 of 30 begins, as percent of the noise schedule: the published table.
PERCENTS = {
    "normal": 0.1550,
    "sgm_uniform": 0.1498,
    "simple": 0.1495,
    "ddim_uniform": 0.1565,
    "karras": 0.1205,
    "exponential": 0.1806,
    "beta": 0.0769,
    "kl_optimal": 0.3035,
    "linear_quadratic": 0.0012,
}
PUBLISHED = 0.1895  # of the published pipeline's own spacing
BEFORE, AFTER = (0.5, 0.8), (1.8, 1.2)  # text and adapter
PICTURE = 1.0  # what an img2img run begins with


def merge_step(step: int = 5, of: int = 30) -> Any:
    from likeness.model_patches.merge_step import MergeStep

    return MergeStep(step, of)


def merge_percent(percent: float) -> Any:
    from likeness.model_patches.merge_step import MergePercent

    return MergePercent(percent)


def run(
    tiny: Any,
    merge: Any,
    steps: int = 30,
    sampler: str = "euler",
    scheduler: str = "normal",
    cfg: float = 5.0,
    picture: float = 0.0,
    denoise: float = 1.0,
    first: int | None = None,
    last: int | None = None,
    **settings: Any,
) -> tuple[list[Any], list[float]]:
    """What each call of a KSampler run used, and the noise levels of its steps."""
    import comfy.samplers

    patched, positive = tiny.apply(merge=merge, **settings)
    model, calls = tiny.recorded(patched)
    noise = tiny.lab.noise(size=(8, 8))
    sampling = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler, denoise, model.model_options)
    sigmas = sampling.sigmas[: None if last is None else last + 1][first:].clone()
    latent = torch.full_like(noise, picture)
    negative = tiny.lab.prompt(12)
    sampling.sample(noise, positive, negative, cfg, latent, start_step=first, last_step=last, disable_pbar=True, seed=3)
    return calls, sigmas.tolist()


def scales(calls: list[Any]) -> list[tuple[float | None, float]]:
    return [(None if call.text is None else round(call.text, 3), round(call.adapter, 3)) for call in calls]


def assert_switches_at(calls: list[Any], step: int) -> None:
    """Of a sampler with one call at each step."""
    assert scales(calls) == [BEFORE] * step + [AFTER] * (len(calls) - step)


def step_of(sigma: float, sigmas: list[float]) -> int:
    """The step to which a noise level belongs, as the specification counts."""
    return max(sum(each >= sigma * (1 - 1e-4) for each in sigmas) - 1, 0)


class TestSchedulers:
    @pytest.mark.parametrize("scheduler", PERCENTS)
    def test_step_5_of_30(self, tiny: Any, scheduler: str) -> None:
        calls, sigmas = run(tiny, merge_step(), scheduler=scheduler)
        assert len(calls) == len(sigmas) - 1 >= 30
        assert_switches_at(calls, 5)

    @pytest.mark.parametrize(("scheduler", "percent"), PERCENTS.items())
    def test_the_table_of_percents(self, tiny: Any, scheduler: str, percent: float) -> None:
        calls, _ = run(tiny, merge_percent(percent), scheduler=scheduler)
        assert_switches_at(calls, 5)

    @pytest.mark.parametrize("how", ["step", "percent"])
    def test_the_published_spacing(self, tiny: Any, how: str) -> None:
        import comfy.samplers

        sampling = tiny.model.get_model_object("model_sampling")
        timesteps = torch.tensor([1.0 + 33 * (29 - step) for step in range(30)])
        sigmas = torch.cat([sampling.sigma(timesteps), torch.zeros(1)])
        patched, positive = tiny.apply(merge=merge_step() if how == "step" else merge_percent(PUBLISHED))
        model, calls = tiny.recorded(patched)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, tiny.lab.prompt(12))
        guider.set_cfg(5.0)
        noise = tiny.lab.noise(size=(8, 8))
        euler = comfy.samplers.sampler_object("euler")
        guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=3)
        assert_switches_at(calls, 5)

    @pytest.mark.parametrize(("steps", "expected"), [(60, 10), (30, 5), (20, 3), (12, 2), (4, 1), (1, 0)])
    def test_other_numbers_of_steps(self, tiny: Any, steps: int, expected: int) -> None:
        calls, _ = run(tiny, merge_step(), steps, scheduler="sgm_uniform")
        assert_switches_at(calls, expected)

    @pytest.mark.parametrize("share", [0.25, 1 / 3, 0.5, 0.9])
    def test_a_step_at_exactly_the_percent_comes_after(self, tiny: Any, share: float) -> None:
        calls, _ = run(tiny, merge_percent(share), 20, scheduler="sgm_uniform")
        assert_switches_at(calls, -int(-20 * share // 1))


class TestSamplers:
    @pytest.mark.parametrize("scheduler", ["normal", "karras"])
    @pytest.mark.parametrize(
        "sampler",
        ["euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2m", "dpmpp_2s_ancestral", "dpmpp_sde"]
        + ["dpmpp_3m_sde", "uni_pc", "uni_pc_bh2", "lcm", "ddim", "res_multistep"],
    )
    def test_evaluations_belong_to_the_step_they_lie_in(self, tiny: Any, sampler: str, scheduler: str) -> None:
        calls, sigmas = run(tiny, merge_step(3, 10), 10, sampler, scheduler)
        assert len(calls) >= 10
        expected = [AFTER if step_of(call.sigma, sigmas) >= 3 else BEFORE for call in calls]
        assert scales(calls) == expected and {BEFORE, AFTER} == set(expected)


class TestPartsOfRuns:
    def test_slices_of_the_advanced_sampler(self, tiny: Any) -> None:
        """The first counts its steps; what goes on from it goes by noise level, and here all of it lies behind."""
        calls, _ = run(tiny, merge_step(), last=10)
        assert_switches_at(calls, 5)
        calls, _ = run(tiny, merge_step(), first=10, picture=PICTURE)
        assert_switches_at(calls, 0)

    def test_a_slice_that_ends_before_the_merge(self, tiny: Any) -> None:
        calls, _ = run(tiny, merge_step(), last=3)
        assert_switches_at(calls, 3)

    @pytest.mark.parametrize("first", [1, 3, 5, 6])
    def test_later_slices_go_by_the_published_noise_level(self, tiny: Any, first: int) -> None:
        calls, sigmas = run(tiny, merge_step(), first=first, picture=PICTURE)
        level = tiny.model.get_model_object("model_sampling").percent_to_sigma(PUBLISHED)
        assert_switches_at(calls, sum(sigma > level for sigma in sigmas))

    @pytest.mark.parametrize(("denoise", "expected"), [(0.95, 5), (0.85, 2), (0.4, 0)])
    def test_img2img(self, tiny: Any, denoise: float, expected: int) -> None:
        calls, sigmas = run(tiny, merge_step(), denoise=denoise, picture=PICTURE)
        level = tiny.model.get_model_object("model_sampling").percent_to_sigma(PUBLISHED)
        assert_switches_at(calls, expected)
        assert sum(sigma > level for sigma in sigmas) == expected

    def test_a_picture_that_is_drawn_over_altogether(self, tiny: Any) -> None:
        """Full noise over a picture, as for inpainting, is counted in steps like none."""
        calls, _ = run(tiny, merge_step(), 20, picture=PICTURE, scheduler="karras")
        assert_switches_at(calls, 3)


class TestLimits:
    @pytest.mark.parametrize(("step", "expected"), [(0, 0), (-2, 0), (30, 8), (99, 8)])
    def test_before_the_start_and_behind_the_end(self, tiny: Any, step: int, expected: int) -> None:
        calls, _ = run(tiny, merge_step(step), 8)
        assert_switches_at(calls, expected)

    @pytest.mark.parametrize(("percent", "expected"), [(0.0, 0), (1.0, 8)])
    def test_percents_at_the_ends(self, tiny: Any, percent: float, expected: int) -> None:
        calls, _ = run(tiny, merge_percent(percent), 8)
        assert_switches_at(calls, expected)

    def test_they_are_the_same_as_constant_scales(self, tiny: Any) -> None:
        from likeness.model_patches.uniid_patch import Scales

        def latents(**settings: Any) -> torch.Tensor:
            model, positive = tiny.apply(**settings)
            return tiny.lab.sample(model, steps=4, positive=positive)

        after = {"text": Scales(1.8, 1.8), "adapter": Scales(1.2, 1.2)}
        before = {"text": Scales(0.5, 0.5), "adapter": Scales(0.8, 0.8)}
        assert torch.equal(latents(merge=merge_step(0)), latents(**after))
        assert torch.equal(latents(merge=merge_step(30)), latents(**before))

    def test_without_guidance(self, tiny: Any) -> None:
        calls, _ = run(tiny, merge_step(), 12, cfg=1.0)
        assert_switches_at(calls, 2)

    @pytest.mark.parametrize("of", [0, 1001])
    def test_nonsense_steps(self, of: int) -> None:
        with pytest.raises(ValueError, match=f"counted in a run of {of} steps"):
            merge_step(5, of)

    @pytest.mark.parametrize("percent", [-0.1, 1.1])
    def test_nonsense_percents(self, percent: float) -> None:
        with pytest.raises(ValueError, match="lies between 0 and 1; got"):
            merge_percent(percent)


def test_percents_are_found_for_every_noise_level(tiny: Any) -> None:
    from likeness.model_patches.merge_step import percent_of

    sampling = tiny.model.get_model_object("model_sampling")
    for percent in (1e-4, 0.0012, 0.1895, 0.5, 0.999):
        sigma = sampling.percent_to_sigma(percent)
        assert abs(sampling.percent_to_sigma(percent_of(sampling, sigma)) / sigma - 1) < 1e-5
    assert percent_of(sampling, float("inf")) == 0.0
    assert percent_of(sampling, 0.0) == 1.0
