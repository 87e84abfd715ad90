"""UniPortrait's own rules inside the sampler: what is computed when, for whom, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from likeness.adapters.identity import Identity
from likeness.adapters.layers import SD15_LAYERS

CROSS_LAYERS = sum(layer.is_cross for layer in SD15_LAYERS)
SAME = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def model(make_sd15: Any) -> Any:
    return make_sd15()


@pytest.fixture(scope="module")
def lab(lab_of: Any) -> Any:
    return lab_of()


@pytest.fixture
def apply(model: Any, uniportrait_models: Any) -> Any:
    """`apply(identities, **settings)` -> patched model and routing record."""
    from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait

    def run(identities: list[Identity], base: Any = None, **settings: Any) -> Any:
        return apply_uniportrait(base or model, uniportrait_models, identities, UniPortraitSettings(**settings))

    return run


@pytest.fixture
def router_rows(uniportrait_models: Any) -> Any:
    """Rows that the routers were asked about, call by call."""
    rows: list[int] = []
    routers = uniportrait_models.weights.routers.values()
    handles = [
        router.to_q_router[0].register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[0]))
        for router in routers
    ]
    yield rows
    for handle in handles:
        handle.remove()


@pytest.fixture
def attention_calls(model: Any) -> Any:
    """A model whose attention calls over 16 keys are counted, and the list of their batch sizes."""
    calls: list[int] = []

    def count(function: Any, q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if k.shape[1] == 16:
            calls.append(q.shape[0])
        return function(q, k, *args, **kwargs)

    counted = model.clone()
    counted.model_options["transformer_options"]["optimized_attention_override"] = count
    return counted, calls


class TestWork:
    @pytest.mark.parametrize("people", [2, 3])
    def test_the_router_sees_only_conditional_rows(
        self, apply: Any, lab: Any, uniportrait_people: Any, router_rows: list[int], people: int
    ) -> None:
        lab.predict(apply(uniportrait_people(range(people)))[0], noise=lab.noise(batch=2))
        assert router_rows == [2] * CROSS_LAYERS

    def test_one_person_needs_no_router(
        self, apply: Any, lab: Any, uniportrait_people: Any, router_rows: list[int]
    ) -> None:
        lab.predict(apply(uniportrait_people([0]))[0])
        assert not router_rows

    def test_masks_for_everyone_need_no_router(
        self, apply: Any, lab: Any, uniportrait_people: Any, router_rows: list[int]
    ) -> None:
        masks = (torch.ones(1, 64, 64), torch.ones(1, 64, 64))
        patched, _ = apply(uniportrait_people([0, 1]), masks=masks)
        lab.predict(patched)
        assert not router_rows
        assert "routers" not in [key for key in patched.additional_models]

    @pytest.mark.parametrize("people", [1, 2, 3])
    def test_nobody_is_attended_to_once(
        self, apply: Any, lab: Any, uniportrait_people: Any, attention_calls: Any, people: int
    ) -> None:
        counted, calls = attention_calls
        noise = lab.noise(size=(24, 24))  # no layer has 16 places
        lab.predict(apply(uniportrait_people(range(people)), base=counted)[0], noise=noise)
        # One person: one call for both halves. Several: each for the positive half, nobody once for the negative one.
        assert len(calls) == (1 if people == 1 else people + 1) * CROSS_LAYERS

    def test_identities_with_equal_tokens_are_one(
        self, apply: Any, lab: Any, uniportrait_people: Any, router_rows: list[int]
    ) -> None:
        twice = lab.predict(apply(uniportrait_people([0, 0]), lora_scale=0.0)[0])
        once = lab.predict(apply(uniportrait_people([0]), lora_scale=0.0)[0])
        torch.testing.assert_close(twice.positive, once.positive, **SAME)
        assert not router_rows

    def test_different_structure_scales_keep_their_own_nobody(
        self, apply: Any, lab: Any, uniportrait_people: Any, router_rows: list[int]
    ) -> None:
        first, second = uniportrait_people([0, 1])
        other = Identity(second.system, second.adapter, {"cond": second.tokens["cond"], "uncond": first.tokens["cond"]})
        lab.predict(apply([first, other])[0])
        assert router_rows == [1] * 2 * CROSS_LAYERS  # now the negative half has something to route


class TestLora:
    def test_whole_run_costs_no_patch_per_step(self, apply: Any, uniportrait_people: Any) -> None:
        patched, _ = apply(uniportrait_people([0]), id_scale=0.0)
        assert len(patched.patches) == 4 * len(SD15_LAYERS)
        patches = patched.model_options["transformer_options"].get("patches", {})
        assert not patches.get("attn1_patch") and not patches.get("attn1_output_patch")

    @pytest.mark.parametrize("people", [1, 2])
    def test_the_window_evaluates_the_same_lora(
        self, apply: Any, lab: Any, uniportrait_people: Any, people: int
    ) -> None:
        identities = uniportrait_people(range(people))
        merged, _ = apply(identities, id_scale=0.0, lora_scale=0.8)
        windowed, _ = apply(identities, id_scale=0.0, lora_scale=0.8, end_percent=0.9)
        assert not windowed.patches
        torch.testing.assert_close(lab.predict(windowed).positive, lab.predict(merged).positive, **SAME)

    def test_one_and_several_people_use_different_sets(self, apply: Any, uniportrait_people: Any) -> None:
        key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        factors = [
            apply(uniportrait_people(range(people)), id_scale=0.0)[0].patches[key][0][1].weights[0]
            for people in (1, 2, 3)
        ]
        assert not torch.equal(factors[0], factors[1]) and torch.equal(factors[1], factors[2])

    def test_scales_are_separate_and_negative_is_off(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        plain = lab.predict(apply(uniportrait_people([0]), id_scale=-0.7, lora_scale=-1.0)[0])
        only_lora = lab.predict(apply(uniportrait_people([0]), id_scale=-0.7)[0])
        assert not torch.equal(plain.positive, only_lora.positive)


class TestRouting:
    def test_maps_of_a_run(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        patched, record = apply(uniportrait_people([0, 1, 2]))
        lab.sample(patched, steps=3, noise=lab.noise(batch=2))
        assert len(record.maps) == 3
        for call in record.maps:
            assert sorted(call) == [layer.number for layer in SD15_LAYERS if layer.is_cross]
            assert call[1].shape == (2, 16, 16) and call[31].shape == (2, 2, 2)
            assert set(call[1].unique().tolist()) <= {0, 1, 2}
        assert record.labels == ("person 1", "person 2", "person 3")
        lab.sample(patched, steps=2)
        assert len(record.maps) == 2  # the last run only

    def test_swapping_people_swaps_the_maps(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        maps = []
        for order in ([0, 1], [1, 0]):
            patched, record = apply(uniportrait_people(order), lora_scale=0.0)
            lab.predict(patched)
            maps.append(record.maps[0][1])
        assert torch.equal(maps[0], 1 - maps[1])

    def test_half_precision_flips_only_near_ties(
        self, apply: Any, lab: Any, uniportrait_people: Any, make_sd15: Any
    ) -> None:
        maps = []
        for base in (None, make_sd15(dtype=torch.float16)):
            patched, record = apply(uniportrait_people([0, 1]), base=base)
            lab.predict(patched)
            maps.append(record.maps[0][1])  # the first layer: later ones amplify what differs here
        assert (maps[0] == maps[1]).float().mean() > 0.95  # the rest are near-ties

    def test_people_without_a_mask_share_the_rest(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        mask = torch.zeros(1, 128, 128)
        mask[..., :64] = 1.0
        patched, record = apply(uniportrait_people([0, 1, 2]), masks=(None, mask))
        lab.predict(patched)
        first_layer = record.maps[0][1][0]
        assert (first_layer[:, :8] == 1).all()
        assert set(first_layer[:, 8:].unique().tolist()) <= {0, 2}

    def test_masks_show_in_the_maps(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        left = torch.zeros(1, 128, 128)
        left[..., :48] = 1.0
        patched, record = apply(uniportrait_people([0, 1]), masks=(left, left.flip(-1)))
        lab.predict(patched)
        row = record.maps[0][1][0, 0].tolist()
        assert row == [0] * 6 + [255] * 4 + [1] * 6

    def test_soft_edges(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        quarter = torch.full((1, 64, 64), 0.25)
        people, off = uniportrait_people([0]), {"lora_scale": 0.0}
        unmasked = lab.predict(apply(people, **off)[0]).positive
        hard = lab.predict(apply(people, masks=(quarter,), **off)[0]).positive
        torch.testing.assert_close(hard, unmasked, **SAME)  # the published normalisation
        soft = lab.predict(apply(people, masks=(quarter,), keep_soft_edges=True, **off)[0]).positive
        weaker = lab.predict(apply(people, id_scale=0.7 * 0.25, **off)[0]).positive
        torch.testing.assert_close(soft, weaker, **SAME)


class TestImagePrompt:
    @pytest.fixture
    def prompt(self) -> Any:
        from likeness.model_patches.uniportrait import ImagePrompt

        positive, negative = (torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) for seed in (7, 8))
        return lambda scale, mask=None: ImagePrompt(positive, negative, scale, mask)

    def test_it_works_without_people(self, apply: Any, lab: Any, model: Any, prompt: Any) -> None:
        plain = lab.predict(model).positive
        assert not torch.equal(lab.predict(apply([], image_prompt=prompt(0.6))[0]).positive, plain)
        assert torch.equal(lab.predict(apply([], image_prompt=prompt(0.0))[0]).positive, plain)

    def test_where_its_mask_is_empty_it_does_nothing(self, apply: Any, lab: Any, model: Any, prompt: Any) -> None:
        patched, _ = apply([], image_prompt=prompt(0.6, torch.zeros(64, 64)))
        torch.testing.assert_close(lab.predict(patched).positive, lab.predict(model).positive, **SAME)

    def test_it_adds_to_a_person(self, apply: Any, lab: Any, uniportrait_people: Any, prompt: Any) -> None:
        person = lab.predict(apply(uniportrait_people([0]))[0]).positive
        both = lab.predict(apply(uniportrait_people([0]), image_prompt=prompt(0.6))[0]).positive
        assert (both - person).abs().mean() > 1e-3


class TestGuiders:
    def test_three_conditionings_number_the_negative_one_first(
        self, apply: Any, lab: Any, uniportrait_people: Any
    ) -> None:
        """DualCFGGuider calls the model with [negative, middle, positive]; index 0 is then not the positive one."""
        import comfy.samplers

        patched, _ = apply(uniportrait_people([0]))
        sigma = torch.tensor([3.0])

        def call(guider: Any, x: torch.Tensor, options: dict[str, Any]) -> list[torch.Tensor]:
            conds = [guider.conds["negative"], guider.conds["positive"]]
            return comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigma, options)

        def usual(guider: Any, x: torch.Tensor, options: dict[str, Any]) -> list[torch.Tensor]:
            conds = [guider.conds["positive"], guider.conds["negative"]]
            return comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigma, options)

        arguments = (sigma, lab.noise(), lab.prompt(11), lab.prompt(12))
        turned, straight = lab.one_call(patched, call, *arguments), lab.one_call(patched, usual, *arguments)
        torch.testing.assert_close(turned[1], straight[0], **SAME)
        torch.testing.assert_close(turned[0], straight[1], **SAME)

    def test_a_call_past_the_wrappers_is_an_error(self, apply: Any, model: Any, uniportrait_people: Any) -> None:
        patched, _ = apply(uniportrait_people([0]))
        options = patched.model_options["transformer_options"]
        with pytest.raises(RuntimeError, match="past ComfyUI's model wrappers"):
            model.model.apply_model(
                torch.zeros(1, 4, 16, 16),
                torch.tensor([1.0]),
                c_crossattn=torch.zeros(1, 77, 64),
                transformer_options=options,
            )


class TestRefusals:
    def test_nobody(self, apply: Any) -> None:
        with pytest.raises(ValueError, match="no identity is connected"):
            apply([])

    def test_an_identity_of_another_file(self, apply: Any, uniportrait_people: Any) -> None:
        (one,) = uniportrait_people([0])
        stranger = Identity(one.system, "0" * 64, one.tokens, "Ann")
        with pytest.raises(ValueError, match=r"identity 1 \(Ann\) was made by another UniPortrait file"):
            apply([stranger])

    def test_an_identity_of_another_system(self, apply: Any, uniportrait_people: Any) -> None:
        (one,) = uniportrait_people([0])
        with pytest.raises(ValueError, match="was made by pulid"):
            apply([Identity("pulid", one.adapter, one.tokens)])

    def test_two_people_without_a_router(self, model: Any, uniportrait_models: Any, uniportrait_people: Any) -> None:
        from dataclasses import replace

        from likeness.adapters.uniportrait import UniPortrait
        from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait
        from likeness.model_patches.uniportrait_models import UniPortraitModels

        weights = UniPortrait(replace(uniportrait_models.weights.sizes, multi_rank=None))
        weights.resampler.load_state_dict(uniportrait_models.weights.resampler.state_dict())
        with pytest.raises(ValueError, match="2 identities need the router file"):
            apply_uniportrait(model, UniPortraitModels(weights), uniportrait_people([0, 1]), UniPortraitSettings())

    def test_another_base_model(self, uniportrait_models: Any, uniportrait_people: Any, make_sdxl: Any) -> None:
        from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait

        with pytest.raises(ValueError, match="this is a TinySDXL model. UniPortrait works with SD 1.5"):
            apply_uniportrait(make_sdxl(), uniportrait_models, uniportrait_people([0]), UniPortraitSettings())

    def test_other_widths(self, uniportrait_models: Any, uniportrait_people: Any, make_sd15: Any) -> None:
        from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait

        with pytest.raises(ValueError, match="other layer widths.*context 128, adapter"):
            apply_uniportrait(
                make_sd15(context=128), uniportrait_models, uniportrait_people([0]), UniPortraitSettings()
            )

    def test_two_nodes_in_the_same_steps(self, apply: Any, lab: Any, uniportrait_people: Any) -> None:
        first, _ = apply(uniportrait_people([0]), end_percent=0.5)
        with pytest.raises(ValueError, match="already has UniPortrait in the same steps"):
            apply(uniportrait_people([1]), base=first, start_percent=0.4)
        both, _ = apply(uniportrait_people([1]), base=first, start_percent=0.5)
        early, late = (lab.predict(both, percent).positive for percent in (0.3, 0.7))
        assert torch.equal(early, lab.predict(first, 0.3).positive)
        alone, _ = apply(uniportrait_people([1]), start_percent=0.5)
        assert torch.equal(late, lab.predict(alone, 0.7).positive)

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ((torch.ones(1, 64, 64), torch.ones(1, 64, 32)), r"different sizes \(64x64, 32x64\)"),
            ((torch.ones(3, 64, 64),), "identity 1 holds 3 pictures"),
            ((torch.full((1, 64, 64), torch.nan),), "identity 1 contains values that are not numbers"),
            ((None, torch.zeros(1, 64, 64)), "identity 2 is empty.*Load Image"),
            ((None, torch.zeros(1, 96, 64)), "identity 2 is empty, so"),
            ((None, None, torch.ones(1, 64, 64)), "3 masks for 2 identities"),
        ],
    )
    def test_masks(self, apply: Any, uniportrait_people: Any, masks: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            apply(uniportrait_people([0, 1]), masks=masks)
