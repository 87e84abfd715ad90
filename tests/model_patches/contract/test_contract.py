"""What every system's patch must do, as docs/contract.md says it; a system joins by a `SystemUnderContract`.

What it makes of batches is tested in test_batches.py, what it does beside other packs' patches in test_neighbours.py.
"""

from __future__ import annotations

import copy
import gc
import sys
import types
from typing import Any

import pytest
import torch

SAME = {"rtol": 1e-4, "atol": 1e-4}  # equal up to the order of float32 sums


class TestStrength:
    def test_zero_is_an_exact_no_op(self, system: Any) -> None:
        plain = system.lab.sample(system.model)
        assert torch.equal(system.lab.sample(system.apply(people=2, strength=0.0)), plain)

    @pytest.mark.parametrize("people", [1, 2, 3])
    def test_one_is_not(self, system: Any, people: int) -> None:
        plain = system.lab.sample(system.model)
        assert (system.lab.sample(system.apply(people=people)) - plain).abs().mean() > 0.01

    def test_identity_term_is_linear_in_its_strength(self, system: Any) -> None:
        plain = system.first_output(system.model)
        half, whole = (system.first_output(system.apply(strength=s, term_only=True)) - plain for s in (0.5, 1.0))
        torch.testing.assert_close(2 * half, whole, **SAME)


class TestWindow:
    def test_outside_the_window_the_model_is_untouched(self, system: Any) -> None:
        model = system.apply(start=0.4, end=0.6)
        for percent in (0.1, 0.39, 0.61, 0.9):
            plain = system.lab.predict(system.model, percent)
            found = system.lab.predict(model, percent)
            assert torch.equal(found.positive, plain.positive)
            assert torch.equal(found.negative, plain.negative)

    def test_inside_the_window_it_is_the_whole_run_patch(self, system: Any) -> None:
        inside = system.lab.predict(system.apply(start=0.4, end=0.6), 0.5)
        whole = system.lab.predict(system.apply(), 0.5)
        torch.testing.assert_close(inside.positive, whole.positive, **SAME)
        torch.testing.assert_close(inside.negative, whole.negative, **SAME)

    def test_windows_that_meet_share_no_step(self, system: Any) -> None:
        first, second = system.apply(start=0.0, end=0.5), system.apply(start=0.5, end=1.0)
        for percent in (0.5, 0.499, 0.501):
            plain = system.lab.predict(system.model, percent).positive
            changed = [not torch.equal(system.lab.predict(model, percent).positive, plain) for model in (first, second)]
            assert changed.count(True) == 1, percent

    def test_an_empty_window_is_an_exact_no_op(self, system: Any) -> None:
        assert torch.equal(system.lab.sample(system.apply(start=0.5, end=0.5)), system.lab.sample(system.model))

    @pytest.mark.parametrize(("start", "end"), [(0.6, 0.4), (-0.1, 1.0), (0.0, 1.5)])
    def test_nonsense_is_refused(self, system: Any, start: float, end: float) -> None:
        with pytest.raises(ValueError, match="start_percent"):
            system.apply(start=start, end=end)


class TestMasks:
    def half(self, system: Any, left: bool) -> torch.Tensor:
        mask = torch.zeros(1, 128, 128)
        mask[..., :64] = 1.0
        return mask if left else 1.0 - mask

    def test_all_one_equals_no_mask(self, system: Any) -> None:
        masked = system.lab.sample(system.apply(masks=[torch.ones(1, 64, 64)]))
        torch.testing.assert_close(masked, system.lab.sample(system.apply()), **SAME)

    def test_half_leaves_the_other_half_of_the_layer_untouched(self, system: Any) -> None:
        plain = system.first_output(system.model).unflatten(1, system.grid)
        out = system.first_output(system.apply(masks=[self.half(system, True)], term_only=True))
        grid, middle = out.unflatten(1, system.grid), system.grid[1] // 2
        assert torch.equal(grid[:, :, middle:], plain[:, :, middle:])
        assert not torch.equal(grid[:, :, :middle], plain[:, :, :middle])

    def test_complementary_masks_add_up(self, linear_system: Any) -> None:
        system = linear_system
        plain = system.first_output(system.model)
        parts = [
            system.first_output(system.apply(masks=[self.half(system, left)], term_only=True)) - plain
            for left in (True, False)
        ]
        whole = system.first_output(system.apply(term_only=True)) - plain
        torch.testing.assert_close(parts[0] + parts[1], whole, **SAME)

    def test_changing_one_person_leaves_the_other_mask_untouched(self, system: Any) -> None:
        masks = [self.half(system, True), self.half(system, False)]
        one = system.first_output(system.apply(people=[0, 1], masks=masks, term_only=True))
        other = system.first_output(system.apply(people=[0, 2], masks=masks, term_only=True))
        left, same = (out.unflatten(1, system.grid)[:, :, : system.grid[1] // 2] for out in (one, other))
        assert torch.equal(left, same)
        assert not torch.equal(one, other)

    def test_an_empty_mask_is_refused(self, system: Any) -> None:
        with pytest.raises(ValueError, match="identity 1 is empty"):
            system.apply(masks=[torch.zeros(1, 64, 64)])

    def test_a_mask_of_another_shape_is_refused(self, system: Any) -> None:
        model = system.apply(masks=[torch.ones(1, 64, 128)])
        with pytest.raises(ValueError, match="128x64 pixels.*128x128"):
            system.lab.sample(model)

    @pytest.mark.parametrize("size", [(16, 16), (13, 21), (65, 9), (8, 64), (33, 17)])
    def test_every_latent_shape_works(self, system: Any, size: tuple[int, int]) -> None:
        height, width = size
        mask = torch.zeros(1, height * 8, width * 8)
        mask[:, : height * 4] = 1.0
        model = system.apply(people=2, masks=[mask, 1.0 - mask])
        assert torch.isfinite(system.lab.predict(model, noise=system.lab.noise(size=size)).positive).all()
        unmasked = system.apply(people=2)
        assert torch.isfinite(system.lab.predict(unmasked, noise=system.lab.noise(size=size)).positive).all()


class TestLife:
    def test_the_model_that_came_in_is_unchanged(self, system: Any) -> None:
        before = options_of(system.model)
        system.lab.sample(system.apply(people=2))
        assert options_of(system.model) == before
        assert not system.model.patches and not system.model.additional_models and not system.model.wrappers

    def test_plain_then_identity_then_plain(self, system: Any) -> None:
        first = system.lab.sample(system.model)
        system.lab.sample(system.apply(people=2))
        assert torch.equal(system.lab.sample(system.model), first)

    def test_ten_weights_and_back(self, system: Any) -> None:
        first = system.lab.sample(system.apply(strength=0.7))
        entries = []
        for step in range(10):
            model = system.apply(strength=0.1 + 0.1 * step)
            entries.append((len(model.patches), sum(map(len, model.patches.values()))))
            system.lab.sample(model, steps=1)
        assert len(set(entries)) == 1
        assert torch.equal(system.lab.sample(system.apply(strength=0.7)), first)

    def test_requeue(self, system: Any) -> None:
        model = system.apply(people=2)
        assert torch.equal(system.lab.sample(model), system.lab.sample(model))

    def test_clones_agree(self, system: Any) -> None:
        model = system.apply(people=2)
        assert torch.equal(system.lab.sample(model.clone().clone()), system.lab.sample(model))

    @pytest.mark.parametrize("kind", ["interrupt", "error"])
    def test_a_broken_run_leaves_no_trace(self, system: Any, kind: str) -> None:
        from comfy.model_management import InterruptProcessingException

        exception = InterruptProcessingException if kind == "interrupt" else RuntimeError
        model = system.apply(people=2)
        plain, whole = system.lab.sample(system.model), system.lab.sample(model)

        def stop(step: int, *_: Any) -> None:
            if step == 1:
                raise exception("stopped")

        with pytest.raises(exception):
            system.lab.sample(model, callback=stop)
        assert torch.equal(system.lab.sample(system.model), plain)
        assert torch.equal(system.lab.sample(model), whole)

    def test_the_state_of_a_run_is_freed(self, system: Any) -> None:
        from likeness.model_patches.sampling_run import ModelCall, Run

        model = system.apply(people=2)
        system.lab.sample(model)
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) in (Run, ModelCall)]

    def test_keys_and_values_are_projected_once_per_run(self, system: Any) -> None:
        calls = []
        handles = [module.register_forward_hook(lambda *_: calls.append(1)) for module in system.projections()]
        try:
            system.lab.sample(system.apply(), steps=3)
        finally:
            for handle in handles:
                handle.remove()
        assert len(calls) == 2 * len(handles)  # one for each guidance half

    def test_no_core_function_is_replaced(self, system: Any) -> None:
        """Neither on the model and its blocks nor in any module or class of ComfyUI that is loaded."""
        system.lab.sample(system.apply(people=2), steps=1)  # ComfyUI imports some modules at their first use
        before, during = functions_of(system.model.model), []
        system.lab.sample(
            system.apply(people=2), steps=2, callback=lambda *_: during.append(functions_of(system.model.model))
        )
        assert len(before) > 3000 and len(during) == 2
        for found in (*during, functions_of(system.model.model)):
            assert [name for name, function in before.items() if found.get(name) is not function] == []
            assert [name for name in found.keys() - before.keys() if name.startswith("model.")] == []


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("people", [1, 2])
    def test_half_precision_follows_float32(self, system: Any, dtype: torch.dtype, people: int) -> None:
        left = torch.zeros(1, 128, 128)
        left[..., :64] = 1.0
        settings = {
            "people": people,
            "masks": [left, 1.0 - left][: people if people > 1 else 0],
        }  # rounding may reroute
        half = system.lab.predict(system.apply(model=system.cast_model(dtype), **settings))
        full = system.lab.predict(system.apply(**settings))
        error = (half.positive - full.positive).abs().mean() / full.positive.abs().mean()
        assert error < (0.02 if dtype == torch.float16 else 0.1)

    def test_weights_that_stay_offloaded(self, system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with --novram: ComfyUI leaves all weights where they are, also the model's, and casts them at each use.

        On the CPU it never does, so that it is told that the CPU is none.
        """
        import comfy.model_management as management

        whole = system.lab.sample(system.apply(people=2))
        management.unload_all_models()
        monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
        monkeypatch.setattr(management, "is_device_cpu", lambda _: False)
        model, offloaded = system.apply(people=2), []

        def look(*_: Any) -> None:
            offloaded.append([patcher.model.model_lowvram for patcher in (model, *system.patchers())])

        found = system.lab.sample(model, callback=look)
        management.unload_all_models()
        assert all(each[0] for each in offloaded) and any(map(any, (each[1:] for each in offloaded)))
        torch.testing.assert_close(found, whole, **SAME)


def functions_of(model: torch.nn.Module) -> dict[str, Any]:
    """Every function that a pack could replace, by a name: of ComfyUI's modules, of their classes, of the model."""
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if module is None or name.split(".")[0] not in (
            "comfy",
            "comfy_extras",
            "execution",
            "nodes",
            "latent_preview",
        ):
            continue
        for key, value in vars(module).items():
            if isinstance(value, types.FunctionType):
                found[f"{name}.{key}"] = value
            elif isinstance(value, type) and value.__module__.startswith("comfy"):
                members = {k: v for k, v in vars(value).items() if isinstance(v, types.FunctionType)}
                found |= {f"{name}.{key}.{k}": v for k, v in members.items()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, (types.FunctionType, types.MethodType)):
                found[f"model.{name}.{key}"] = value
        found[f"model.{name}.forward"] = vars(module).get("forward", type(module).forward)
    return found


def options_of(model: Any) -> Any:
    return copy.deepcopy({key: str(value) for key, value in model.model_options.items()})
