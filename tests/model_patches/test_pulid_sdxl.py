"""PuLID's own rules on SDXL: forms, what is computed when, who shares with whom, and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from likeness.adapters.layers import sdxl_layers
from likeness.adapters.pulid_attention import FORMS, Injection

CROSS_LAYERS = sum(layer.is_cross for layer in sdxl_layers(1, 2))
TOKENS = 8
SAME = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def model(make_sdxl: Any) -> Any:
    return make_sdxl()


@pytest.fixture(scope="module")
def lab(lab_of_base: Any) -> Any:
    return lab_of_base("SDXL")


@pytest.fixture(scope="module")
def models(make_pulid: Any) -> Any:
    return make_pulid("pulid-v1.1")


@pytest.fixture
def apply(model: Any, models: Any, pulid_people: Any) -> Any:
    """`apply([0, 1], base, form=, num_zero=, scale=, **settings)` -> patched model and routing record."""
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    def run(
        people: Sequence[Any], base: Any = None, form: str = "plain", num_zero: int = 0, scale: float = 1.0, **rest: Any
    ) -> Any:
        known = [pulid_people(models, [who])[0] if isinstance(who, int) else who for who in people]
        settings = PulidSettings(Injection(form, num_zero, scale), **rest)
        return apply_pulid(base or model, models, known, settings)

    return run


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    return mask


def first_layer(lab: Any, model: Any, **kwargs: Any) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    probe = model.clone()
    probe.set_model_attn2_output_patch(lambda x, options: (seen.append(x.clone()), x)[1])
    lab.predict(probe, **kwargs)
    return seen[0]


@pytest.fixture
def attention_calls(model: Any) -> Any:
    """A model whose attention calls over the identities' tokens are counted, and the list of their batch sizes."""
    calls: list[int] = []

    def count(function: Any, q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if k.shape[1] == TOKENS:
            calls.append(q.shape[0])
        return function(q, k, *args, **kwargs)

    counted = model.clone()
    counted.model_options["transformer_options"]["optimized_attention_override"] = count
    return counted, calls


@pytest.fixture
def projected(models: Any) -> Any:
    """Rows of tokens that the first layer's projection was given, call by call."""
    calls: list[int] = []
    projection = models.weights.projections["1"]
    handle = projection.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
    yield calls
    handle.remove()


class TestWork:
    @pytest.mark.parametrize(
        ("form", "masked", "expected"), [("plain", True, 3), ("ortho", True, 4), ("ortho", False, 3)]
    )
    def test_nobody_is_attended_to_once(
        self, apply: Any, lab: Any, attention_calls: Any, form: str, masked: bool, expected: int
    ) -> None:
        """Only in the ortho forms with masks nobody counts once for each person, since each has a projection."""
        counted, calls = attention_calls
        masks = (left_half(), 1.0 - left_half()) if masked else ()
        lab.predict(apply([0, 1], counted, form, masks=masks)[0], noise=lab.noise(size=(24, 24)))
        assert calls == [1] * expected * CROSS_LAYERS

    def test_one_person_takes_one_call_for_both_halves(self, apply: Any, lab: Any, attention_calls: Any) -> None:
        counted, calls = attention_calls
        lab.predict(apply([0], counted, "ortho_v2")[0], noise=lab.noise(size=(24, 24), batch=2))
        assert calls == [4] * CROSS_LAYERS

    def test_all_people_are_projected_together(self, apply: Any, lab: Any, projected: list[int]) -> None:
        lab.sample(apply([0, 1, 2], num_zero=4)[0], steps=3)
        assert projected == [3 * TOKENS, TOKENS]  # zero tokens need no projection, and nobody is nobody

    def test_without_guidance_nobody_is_left_out(self, apply: Any, lab: Any, projected: list[int]) -> None:
        lab.sample(apply([0])[0], steps=2, cfg=1.0)
        assert projected == [TOKENS]

    def test_a_run_outside_the_window_computes_nothing(self, apply: Any, lab: Any, projected: list[int]) -> None:
        lab.sample(apply([0], start_percent=0.4, end_percent=0.6)[0], steps=2)
        assert projected == []

    def test_sampling_needs_no_weights(self, apply: Any, lab: Any, models: Any) -> None:
        """They are loaded while a run begins; from then on the base model may take their place."""
        patched, _ = apply([0])
        assert not patched.additional_models
        whole = lab.sample(patched)
        kept = {key: value.clone() for key, value in models.weights.projections.state_dict().items()}

        def spoil(*_: Any) -> None:
            for weight in models.weights.projections.state_dict().values():
                weight.fill_(torch.nan)

        try:
            assert torch.equal(lab.sample(patched, callback=spoil), whole)
        finally:
            models.weights.projections.load_state_dict(kept)

    def test_weights_that_stay_where_they_are(self, apply: Any, lab: Any, model: Any) -> None:
        """A script that calls the model outside a sampling run loads nothing; the layers fetch their weights then."""
        patched, _ = apply([0])
        options = patched.model_options["transformer_options"]
        wrappers = {key: dict(value) for key, value in patched.wrappers.items()}
        options = {**options, "wrappers": wrappers, "cond_or_uncond": [0]}
        arguments = (lab.noise(), torch.tensor([3.0]))
        inputs = {"c_crossattn": lab.prompt(11)[0][0], "y": torch.zeros(1, 64 + 6 * 256)}
        found = model.model.apply_model(*arguments, **inputs, transformer_options=options)
        plain = model.model.apply_model(*arguments, **inputs, transformer_options={})
        assert torch.isfinite(found).all() and not torch.equal(found, plain)


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_outside_a_mask_nothing_changes(self, apply: Any, lab: Any, model: Any, form: str) -> None:
        plain = first_layer(lab, model).unflatten(1, (8, 8))
        found = first_layer(lab, apply([0], form=form, masks=(left_half(),))[0]).unflatten(1, (8, 8))
        assert torch.equal(found[:, :, 4:], plain[:, :, 4:])
        assert not torch.equal(found[:, :, :4], plain[:, :, :4])

    @pytest.mark.parametrize("form", FORMS)
    def test_changing_one_person_leaves_the_others_mask(self, apply: Any, lab: Any, form: str) -> None:
        masks = (left_half(), 1.0 - left_half())
        one, other = (first_layer(lab, apply([0, who], form=form, masks=masks)[0]) for who in (1, 2))
        one, other = (each.unflatten(1, (8, 8)) for each in (one, other))
        assert torch.equal(one[:, :, :4], other[:, :, :4]) and not torch.equal(one, other)

    @pytest.mark.parametrize("form", FORMS)
    def test_strength_is_linear_and_may_be_negative(self, apply: Any, lab: Any, model: Any, form: str) -> None:
        plain = first_layer(lab, model)
        whole, less = (first_layer(lab, apply([0], form=form, scale=scale)[0]) - plain for scale in (1.0, -0.5))
        torch.testing.assert_close(-2 * less, whole, **SAME)

    @pytest.mark.parametrize("form", FORMS)
    def test_a_mask_that_covers_all_is_no_mask(self, apply: Any, lab: Any, form: str) -> None:
        masked = lab.predict(apply([0], form=form, num_zero=3, masks=(torch.ones(1, 64, 64),))[0])
        plain = lab.predict(apply([0], form=form, num_zero=3)[0])
        torch.testing.assert_close(masked.positive, plain.positive, **SAME)
        torch.testing.assert_close(masked.negative, plain.negative, **SAME)

    def test_forms_and_zero_tokens_differ(self, apply: Any, lab: Any) -> None:
        kinds = [("plain", 0), ("ortho", 0), ("ortho_v2", 0), ("plain", 8), ("ortho_v2", 8)]
        found = [lab.predict(apply([0], form=form, num_zero=zeros)[0]).positive for form, zeros in kinds]
        assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(found) for b in found[:i])

    @pytest.mark.parametrize("form", ["plain", "ortho_v2"])
    def test_soft_edges(self, apply: Any, lab: Any, form: str) -> None:
        quarter = torch.full((1, 64, 64), 0.25)
        soft = lab.predict(apply([0], form=form, masks=(quarter,))[0]).positive
        weaker = lab.predict(apply([0], form=form, scale=0.25)[0]).positive
        torch.testing.assert_close(soft, weaker, **SAME)
        hard = lab.predict(apply([0], form=form, masks=(quarter,), keep_soft_edges=False)[0]).positive
        torch.testing.assert_close(hard, lab.predict(apply([0], form=form)[0]).positive, **SAME)

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("masked", [False, True])
    def test_identities_of_different_lengths(
        self, apply: Any, lab: Any, models: Any, pulid_people: Any, form: str, masked: bool
    ) -> None:
        """PuLID v1 has more tokens for more photos, and nobody may have as many or not."""
        from likeness.adapters.identity import Identity

        long, short = pulid_people(models, [0], 15)[0], pulid_people(models, [1], 10)[0]
        odd = Identity(long.system, long.adapter, {"cond": long.tokens["cond"], "uncond": short.tokens["uncond"]})
        masks = (left_half(), 1.0 - left_half()) if masked else ()
        alone = lab.predict(apply([odd], form=form, num_zero=2)[0])
        assert torch.isfinite(alone.positive).all() and torch.isfinite(alone.negative).all()
        negative = lab.predict(apply([short], form=form, num_zero=2)[0]).negative
        torch.testing.assert_close(alone.negative, negative, **SAME)
        both = lab.predict(apply([odd, short], form=form, masks=masks)[0])
        assert torch.isfinite(both.positive).all() and torch.isfinite(both.negative).all()


class TestSharing:
    @pytest.mark.parametrize("form", ["plain", "ortho_v2"])
    @pytest.mark.parametrize("sharing", ["attention", "one each"])
    def test_the_same_person_twice_is_one(self, apply: Any, lab: Any, form: str, sharing: str) -> None:
        patched, record = apply([0, 0], form=form, sharing=sharing)
        once = lab.predict(apply([0], form=form)[0])
        torch.testing.assert_close(lab.predict(patched).positive, once.positive, **SAME)
        assert not record.maps  # nothing was shared out

    @pytest.mark.parametrize("sharing", ["attention", "one each"])
    def test_order_does_not_matter(self, apply: Any, lab: Any, sharing: str) -> None:
        found, maps = [], []
        for order in ([0, 1, 2], [2, 0, 1]):
            patched, record = apply(order, form="ortho", sharing=sharing)
            found.append(lab.predict(patched).positive)
            maps.append(record.maps[0][1])
        torch.testing.assert_close(*found, **SAME)
        renamed = torch.tensor([1, 2, 0], dtype=torch.uint8)[maps[0].long()]  # person 0 is second in the other order
        assert torch.equal(renamed, maps[1])

    def test_one_each_gives_each_place_to_one(self, apply: Any, lab: Any, model: Any) -> None:
        plain = first_layer(lab, model)[1:]
        patched, record = apply([0, 1], sharing="one each")
        found = first_layer(lab, patched)[1:]
        alone = [first_layer(lab, apply([who])[0])[1:] for who in (0, 1)]
        owner = record.maps[0][1].flatten(1)
        assert set(owner.unique().tolist()) == {0, 1}
        expected = torch.where((owner == 0)[..., None], *alone)
        torch.testing.assert_close(found, expected, **SAME)
        soft = first_layer(lab, apply([0, 1])[0])[1:]
        assert not torch.allclose(soft, expected, atol=1e-3) and not torch.allclose(soft, plain, atol=1e-3)

    def test_zero_tokens_do_not_count(self, apply: Any, lab: Any, model: Any) -> None:
        """Shares, read off what two people add and what each adds alone, sum to 1 and are those without zero tokens."""
        plain, shares = first_layer(lab, model)[1:], []
        for num_zero in (0, 8):
            both, one, other = (
                first_layer(lab, apply(people, num_zero=num_zero)[0])[1:] - plain for people in ([0, 1], [0], [1])
            )
            apart = one - other
            share = ((both - other) * apart).sum(-1, keepdim=True) / (apart * apart).sum(-1, keepdim=True)
            torch.testing.assert_close(other + share * apart, both, **SAME)
            shares.append(share)
        torch.testing.assert_close(*shares, **SAME)
        assert shares[0].min() > 0 and shares[0].max() < 1 and shares[0].std() > 0.05

    def test_people_without_a_mask_share_the_rest(self, apply: Any, lab: Any) -> None:
        patched, record = apply([0, 1, 2], masks=(None, left_half()), form="ortho")
        lab.predict(patched)
        drawn = record.maps[0][1][0]
        assert (drawn[:, :4] == 1).all() and set(drawn[:, 4:].unique().tolist()) <= {0, 2}

    def test_maps_of_a_run(self, apply: Any, lab: Any) -> None:
        patched, record = apply([0, 1])
        lab.sample(patched, steps=3, noise=lab.noise(batch=2))
        assert len(record.maps) == 3 and record.labels == ("person 1", "person 2")
        for call in record.maps:
            assert len(call) == CROSS_LAYERS and call[1].shape == (2, 8, 8)


class TestNeighbours:
    def test_a_patch_for_all_transformers_of_a_block_is_wrapped(self, apply: Any, lab: Any, model: Any) -> None:
        """Under the short key it serves both transformers of the block; ours under the long ones would hide it."""
        from comfy.ldm.modules.attention import optimized_attention

        calls: list[Any] = []

        def foreign(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
            calls.append(options["block_index"])
            return optimized_attention(q, k, v, options["n_heads"])

        before = model.clone()
        before.set_model_attn2_replace(foreign, "middle", 0)
        lab.predict(apply([0], before)[0])
        assert calls == [0, 1]

    @pytest.mark.parametrize("form", FORMS)
    def test_two_nodes_with_masks_are_one_node_with_both(self, apply: Any, lab: Any, form: str) -> None:
        left, right = left_half(), 1.0 - left_half()
        both = first_layer(lab, apply([0, 1], form=form, masks=(left, right))[0])
        chained, _ = apply([0], form=form, masks=(left,))
        chained, _ = apply([1], chained, form, masks=(right,))
        torch.testing.assert_close(first_layer(lab, chained), both, **SAME)

    def test_two_nodes_in_different_steps(self, apply: Any, lab: Any) -> None:
        early, _ = apply([0], end_percent=0.5)
        both, _ = apply([1], early, start_percent=0.5)
        late, _ = apply([1], start_percent=0.5)
        assert torch.equal(lab.predict(both, 0.3).positive, lab.predict(early, 0.3).positive)
        assert torch.equal(lab.predict(both, 0.7).positive, lab.predict(late, 0.7).positive)
