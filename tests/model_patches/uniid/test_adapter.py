"""UniID's adapter branch in SDXL's layers: rescaling, several people, neighbours, what is computed when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from likeness.adapters.layers import sdxl_layers

CROSS_LAYERS = sum(layer.is_cross for layer in sdxl_layers(1, 2))
TOKENS = 5
SAME = {"rtol": 1e-4, "atol": 1e-4}
GRID = (8, 8)  # of the first layer


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    return mask


def constant(scale: float) -> Any:
    from likeness.model_patches.uniid_patch import Scales

    return Scales(scale, scale)


@pytest.fixture
def patched(tiny: Any) -> Any:
    """`patched(people=1, scale=1.0, model=None, **settings)` -> the model with the adapter branch alone."""

    def apply(people: int = 1, scale: float = 1.0, **settings: Any) -> Any:
        return tiny.apply(people=people, text=constant(0.0), adapter=constant(scale), **settings)[0]

    return apply


def first_layer(tiny: Any, model: Any) -> torch.Tensor:
    """Before to_out, both halves: (2, 64, 32)."""
    seen: list[torch.Tensor] = []
    probe = model.clone()
    probe.set_model_attn2_output_patch(lambda x, options: (seen.append(x.clone()), x)[1])
    tiny.lab.predict(probe)
    return seen[0]


def slot_results(tiny: Any, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the first layer's slot gives, and what ComfyUI's own attention would, each (2, 64, 32)."""
    from comfy.ldm.modules.attention import optimized_attention

    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    probe = model.clone()
    slots = probe.model_options["transformer_options"]["patches_replace"]["attn2"]
    inner = slots["input", 4, 0]

    def slot(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        out = inner(q, k, v, options)
        results.append((out.clone(), optimized_attention(q, k, v, options["n_heads"])))
        return out

    probe.set_model_attn2_replace(slot, "input", 4, 0)
    tiny.lab.predict(probe)
    return results[0]


class TestRescaling:
    def test_the_part_is_as_long_as_the_texts(self, tiny: Any, patched: Any) -> None:
        for scale in (0.8, 1.2, -0.5):
            out, plain = slot_results(tiny, patched(scale=scale))
            found, wanted = ((each).flatten(1).norm(dim=1) for each in (out - plain, plain))
            torch.testing.assert_close(found, abs(scale) * wanted, **SAME)

    def test_off_it_is_as_long_as_it_is(self, tiny: Any, patched: Any) -> None:
        out, plain = slot_results(tiny, patched(rescaling=False))
        ratio = (out - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
        assert (ratio - 1).abs().min() > 0.05
        rescaled, _ = slot_results(tiny, patched())
        torch.testing.assert_close((rescaled - plain) * ratio[:, None, None], out - plain, **SAME)

    def test_a_mask_gets_the_texts_length_inside_it(self, tiny: Any, patched: Any) -> None:
        out, plain = slot_results(tiny, patched(masks=(left_half(),)))
        added, text = ((x).unflatten(1, GRID)[:, :, :4].flatten(1).norm(dim=1) for x in (out - plain, plain))
        torch.testing.assert_close(added, text, **SAME)
        assert torch.equal(out.unflatten(1, GRID)[:, :, 4:], plain.unflatten(1, GRID)[:, :, 4:])

    @pytest.mark.parametrize("value_scale", [1e-3, 1e3])
    def test_large_and_small_values_count_the_same(
        self, tiny: Any, patched: Any, make_uniid: Any, value_scale: float
    ) -> None:
        models = make_uniid()
        for projection in models.weights.projections.values():
            projection.to_v.weight.mul_(value_scale)
        found, expected = (tiny.lab.predict(patched(models=each)) for each in (models, tiny.models))
        torch.testing.assert_close(found.positive, expected.positive, **SAME)

    def test_a_fresh_adapter_changes_nothing(self, tiny: Any, patched: Any) -> None:
        """Its tokens are zero, as the last layer of an untrained resampler makes them."""
        from dataclasses import replace

        (someone, *_) = tiny.people
        zeros = {**someone.tokens, "cond": torch.zeros(TOKENS, 64), "uncond": torch.zeros(TOKENS, 64)}
        fresh = replace(tiny, people=[replace(someone, tokens=zeros)])
        plain = tiny.lab.predict(tiny.model)
        for rescaling in (True, False):
            model, _ = fresh.apply(text=constant(0.0), rescaling=rescaling)
            found = tiny.lab.predict(model)
            assert torch.equal(found.positive, plain.positive) and torch.equal(found.negative, plain.negative)


class TestSeveralPeople:
    @pytest.mark.parametrize("sharing", ["attention", "one each"])
    def test_the_same_person_twice_is_one(self, tiny: Any, patched: Any, sharing: str) -> None:
        from dataclasses import replace

        twice = replace(tiny, people=[tiny.people[0]] * 2)
        model, _ = twice.apply(people=2, text=constant(0.0), adapter=constant(1.0), sharing=sharing)
        torch.testing.assert_close(tiny.lab.predict(model).positive, tiny.lab.predict(patched()).positive, **SAME)

    def test_masks_give_each_half_its_person(self, tiny: Any, patched: Any) -> None:
        both = first_layer(tiny, patched(2, masks=(left_half(), 1.0 - left_half()))).unflatten(1, GRID)
        for who, columns in ((0, slice(0, 4)), (1, slice(4, 8))):
            mask = left_half() if who == 0 else 1.0 - left_half()
            masks = (mask, None) if who == 0 else (None, mask)
            alone = first_layer(tiny, patched(2, masks=masks)).unflatten(1, GRID)
            torch.testing.assert_close(both[1:, :, columns], alone[1:, :, columns], **SAME)

    def test_one_each_gives_each_place_to_one(self, tiny: Any, patched: Any) -> None:
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        settings = UniidSettings(text=constant(0.0), sharing="one each")
        model, _, record, _ = apply_uniid(tiny.model, [], tiny.models, tiny.people[:2], settings)
        tiny.lab.predict(model)
        assert set(record.maps[0][1].unique().tolist()) == {0, 1}
        soft = tiny.lab.predict(patched(2)).positive
        assert not torch.allclose(tiny.lab.predict(model).positive, soft, atol=1e-3)

    def test_nobody_counts_once(self, tiny: Any, patched: Any) -> None:
        """The negative half has the same tokens for all, and its norms are the whole picture's, as published."""
        both, _ = slot_results(tiny, patched(2, masks=(left_half(), 1.0 - left_half())))
        one, _ = slot_results(tiny, patched())
        negative = slice(1)
        torch.testing.assert_close(both[negative], one[negative], **SAME)


class TestNeighbours:
    def test_two_nodes_with_masks_are_one_node_with_both(self, tiny: Any, patched: Any) -> None:
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        left, right = left_half(), 1.0 - left_half()
        both = first_layer(tiny, patched(2, masks=(left, right)))[1:]
        settings = UniidSettings(text=constant(0.0), adapter=constant(1.0), masks=(right,))
        chained, *_ = apply_uniid(patched(masks=(left,)), [], tiny.models, tiny.people[1:2], settings)
        torch.testing.assert_close(first_layer(tiny, chained)[1:], both, **SAME)

    def test_the_words_beside_pulids_adapter(
        self, tiny: Any, make_uniid: Any, uniid_people: Any, make_pulid: Any, pulid_people: Any
    ) -> None:
        """UniID's text branch and PuLID's layers on one model: each is as it is alone."""
        from likeness.adapters.pulid_attention import Injection
        from likeness.model_patches.pulid import PulidSettings, apply_pulid
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        words, pulid = make_uniid(adapter=False), make_pulid("pulid-v1.1")
        people, settings = uniid_people(words, [0]), PulidSettings(Injection("ortho", 2))
        model, positive, _, _ = apply_uniid(tiny.model, tiny.lab.prompt(11), words, people, UniidSettings())
        assert "attn2" not in model.model_options["transformer_options"].get("patches_replace", {})
        both, _ = apply_pulid(model, pulid, pulid_people(pulid, [1]), settings)
        other, _ = apply_pulid(tiny.model, pulid, pulid_people(pulid, [1]), settings)
        torch.testing.assert_close(
            tiny.lab.predict(both, positive=positive).positive, tiny.lab.predict(other, positive=positive).positive
        )
        probe, calls = tiny.recorded(model)
        tiny.lab.sample(probe, 30, positive=positive, noise=tiny.lab.noise(size=(8, 8)))
        assert [round(call.text, 3) for call in calls] == [0.5] * 5 + [1.8] * 25
        assert torch.isfinite(tiny.lab.sample(both, 3, positive=positive)).all()


class TestWork:
    def test_a_branch_of_scale_zero_is_not_computed(self, tiny: Any) -> None:
        from likeness.model_patches.uniid_patch import Scales

        attended: list[int] = []

        def count(function: Any, q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if k.shape[1] == TOKENS:
                attended.append(q.shape[0])
            return function(q, k, *args, **kwargs)

        counted = tiny.model.clone()
        counted.model_options["transformer_options"]["optimized_attention_override"] = count
        model, _ = tiny.apply(model=counted, text=constant(0.0), adapter=Scales(0.0, 1.2))
        tiny.lab.sample(model, 30, noise=tiny.lab.noise(size=(24, 24)))
        assert attended == [2] * CROSS_LAYERS * 25  # from step 5 on, both halves in one call

    def test_a_late_branch_is_not_reported_as_skipped(self, tiny: Any, caplog: Any) -> None:
        from likeness.model_patches.uniid_patch import Scales

        model, _ = tiny.apply(text=constant(0.0), adapter=Scales(0.0, 1.2))
        tiny.lab.sample(model, 6)
        assert not caplog.records

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("stored", [torch.float16, torch.float8_e4m3fn])
    def test_half_precision(self, tiny: Any, make_sdxl: Any, make_uniid: Any, dtype: Any, stored: Any) -> None:
        small = make_sdxl(compute=dtype)
        found, expected = (
            tiny.apply(model=model, models=models, adapter=constant(1.0), text=constant(1.0))
            for model, models in ((small, make_uniid(dtype=stored)), (tiny.model, tiny.models))
        )
        half, full = (tiny.lab.predict(model, positive=positive).positive for model, positive in (found, expected))
        error = (half - full).abs().mean() / full.abs().mean()
        assert error < (0.1 if torch.bfloat16 == dtype or stored == torch.float8_e4m3fn else 0.02)

    def test_compiled_models_agree(self, tiny: Any, dynamo: Any) -> None:
        """One graph for each scale, and one for the first call of a run, which arranges tokens by rows."""
        from comfy_api.torch_helpers import set_torch_compile_wrapper
        from likeness.model_patches.merge_step import MergeStep

        model, positive = tiny.apply(merge=MergeStep(2, 5))
        expected = tiny.lab.sample(model, 5, positive=positive)
        compiled = model.clone()
        set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
        torch.testing.assert_close(tiny.lab.sample(compiled, 5, positive=positive), expected, **SAME)
        assert dynamo.utils.counters["stats"]["unique_graphs"] == 3


@pytest.mark.parametrize("rescaling", [True, False])
@pytest.mark.parametrize("percent", [0.2, 0.6])
def test_the_plain_code_of_the_benchmark_agrees(tiny: Any, rescaling: bool, percent: float) -> None:
    """It carries the tokens behind the prompt and projects them in every layer and step, for each row."""
    from likeness.benchmarks.plain_uniid import apply_plainly
    from likeness.model_patches.merge_step import MergePercent
    from likeness.model_patches.uniid_patch import UniidSettings

    settings = {"merge": MergePercent(0.4), "rescaling": rescaling}
    positive, negative = tiny.lab.prompt(11), tiny.lab.prompt(12)
    plain, *prompts = apply_plainly(
        tiny.model, positive, negative, tiny.models, tiny.people[0], UniidSettings(**settings)
    )
    expected = tiny.lab.predict(plain, percent, positive=prompts[0], negative=prompts[1])
    model, words = tiny.apply(positive, **settings)
    found = tiny.lab.predict(model, percent, positive=words, negative=negative)
    torch.testing.assert_close(found.positive, expected.positive, **SAME)
    torch.testing.assert_close(found.negative, expected.negative, **SAME)
