"""Steps and windows: percentages become sigmas, and a step on a boundary belongs to the window that starts there."""

from __future__ import annotations

from typing import Any

import pytest
from likeness.demo.workflow import nodes_of, shipped_workflow


def windows(model: Any, *bounds: float) -> list[Any]:
    from likeness.model_patches.window import Window

    return [Window.from_percent(model, start, end) for start, end in zip(bounds, bounds[1:], strict=False)]


@pytest.mark.parametrize("steps", [4, 7, 20, 28])
@pytest.mark.parametrize(("base", "scheduler"), [("flux", "simple"), ("sd15", "simple"), ("sd15", "sgm_uniform")])
def test_a_boundary_on_a_step_starts_with_it(
    make_flux: Any, make_sd15: Any, base: str, scheduler: str, steps: int
) -> None:
    """The published start_step k of n is start_percent k / n: k steps before it, whatever a scheduler rounds."""
    import comfy.samplers

    model = make_flux(depth=1, depth_single_blocks=1) if base == "flux" else make_sd15()
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)[:-1].tolist()
    assert len(sigmas) == steps
    for first in range(1, steps):
        before, after = windows(model, 0.0, first / steps, 1.0)
        assert [before.contains(sigma) for sigma in sigmas] == [step < first for step in range(steps)]
        assert [after.contains(sigma) for sigma in sigmas] == [step >= first for step in range(steps)]


def test_a_window_from_the_start_holds_any_noise(make_flux: Any) -> None:
    (window,) = windows(make_flux(depth=1, depth_single_blocks=1), 0.0, 0.5)
    assert window.contains(1.0) and window.contains(1.2)  # custom schedules may begin above FLUX's 1


def test_windows_that_meet_do_not_overlap(make_sd15: Any) -> None:
    first, second, third = windows(make_sd15(), 0.0, 0.3, 0.3, 1.0)
    assert second.empty and not first.empty
    assert not first.overlaps(third) and first.overlaps(windows(make_sd15(), 0.2, 1.0)[0])


@pytest.mark.parametrize(
    ("name", "first"), [("pulid-flux-photo", 4), ("pulid-flux-people-with-masks", 4), ("pulid-flux-style", 1)]
)
def test_people_come_in_at_the_published_step_of_a_workflow(make_flux: Any, name: str, first: int) -> None:
    """Four steps late in photographs, at once or one step late in other styles."""
    import comfy.samplers
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    graph = shipped_workflow(name)
    shift, apply, sampler = (
        graph[nodes_of(graph, kind)[0]]["inputs"] for kind in ("ModelSamplingFlux", "Likeness_ApplyPuLID", "KSampler")
    )
    shifts = (shift[key] for key in ("max_shift", "base_shift", "width", "height"))
    (model,) = ModelSamplingFlux().patch(make_flux(depth=1, depth_single_blocks=1), *shifts)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, sampler["scheduler"], sampler["steps"])[:-1].tolist()
    (window,) = windows(model, apply["start_percent"], apply["end_percent"])
    assert [window.contains(sigma) for sigma in sigmas] == [step >= first for step in range(sampler["steps"])]
