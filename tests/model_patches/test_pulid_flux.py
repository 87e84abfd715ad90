"""PuLID's own rules on FLUX: which tokens are touched, what is computed when, who shares with whom, and neighbours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from likeness.adapters.layers import flux_places
from likeness.adapters.pulid_attention import Injection

PLACES = [(place.kind, place.index) for place in flux_places(3, 5)]  # of the tiny model
SAME = {"rtol": 1e-4, "atol": 1e-4}
TEXT_TOKENS = 77
IMAGE_TOKENS = 64


@pytest.fixture(scope="module")
def model(make_flux: Any) -> Any:
    return make_flux()


@pytest.fixture(scope="module")
def lab(lab_of_base: Any) -> Any:
    return lab_of_base("FLUX")


@pytest.fixture(scope="module")
def models(make_pulid: Any) -> Any:
    return make_pulid("pulid-flux")


@pytest.fixture
def apply(model: Any, models: Any, pulid_people: Any) -> Any:
    """`apply([0, 1], base, scale=, **settings)` -> patched model and routing record."""
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    def run(people: Sequence[int], base: Any = None, scale: float = 1.0, **rest: Any) -> Any:
        settings = PulidSettings(Injection(scale=scale), **rest)
        return apply_pulid(base or model, models, pulid_people(models, people), settings)

    return run


def slots(model: Any) -> Any:
    return model.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    return mask


def watched(model: Any, key: tuple[str, int]) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A clone that notes, at one place, the image stream behind ComfyUI's block and behind what sits in the slot."""
    notes: list[tuple[torch.Tensor, torch.Tensor]] = []
    probe = model.clone()
    ours = slots(probe)[key]

    def watch(args: Any, extra: Any) -> Any:
        inner: list[torch.Tensor] = []

        def block(inputs: Any) -> Any:
            out = extra["original_block"](inputs)
            inner.append(out["img"].clone())
            return out

        out = ours(args, {"original_block": block})
        notes.append((inner[0], out["img"].clone()))
        return out

    probe.set_model_patch_replace(watch, "dit", *key)
    return probe, notes


class TestTokens:
    def test_the_published_places(self, apply: Any) -> None:
        assert sorted(slots(apply([0])[0])) == sorted(PLACES)
        assert PLACES == [("double_block", 0), ("double_block", 2), ("single_block", 0), ("single_block", 4)]

    @pytest.mark.parametrize("key", PLACES)
    def test_text_stays(self, apply: Any, lab: Any, key: tuple[str, int]) -> None:
        probe, notes = watched(apply([0])[0], key)
        lab.predict(probe)
        before, after = notes[0]
        text = TEXT_TOKENS if key[0] == "single_block" else 0
        assert before.shape[1] == text + IMAGE_TOKENS
        assert torch.equal(after[:, :text], before[:, :text])
        assert (after[:, text:] - before[:, text:]).abs().amax(-1).min() > 1e-3  # every image token

    @pytest.mark.parametrize("method", ["offset", "index", "uxo"])
    @pytest.mark.parametrize("key", [PLACES[1], PLACES[3]])
    def test_reference_pictures_stay(self, apply: Any, lab: Any, key: tuple[str, int], method: str) -> None:
        """Kontext's pictures follow the one that is being made in the image stream."""
        references = [lab.noise(size=(8, 12), seed=21), lab.noise(size=(4, 4), seed=22)]
        options = {"reference_latents": references, "reference_latents_method": method}
        positive, negative = (lab.prompt(seed, **options) for seed in (11, 12))
        probe, notes = watched(apply([0])[0], key)
        lab.predict(probe, positive=positive, negative=negative)
        before, after = notes[0]
        text = TEXT_TOKENS if key[0] == "single_block" else 0
        picture = slice(text, text + IMAGE_TOKENS)
        assert before.shape[1] == text + IMAGE_TOKENS + 4 * 6 + 2 * 2
        assert torch.equal(after[:, :text], before[:, :text])
        assert torch.equal(after[:, picture.stop :], before[:, picture.stop :])
        assert (after[:, picture] - before[:, picture]).abs().amax(-1).min() > 1e-3

    def test_reference_pictures_with_masks(self, apply: Any, lab: Any) -> None:
        positive = lab.prompt(11, reference_latents=[lab.noise(size=(8, 12), seed=21)])
        probe, notes = watched(apply([0, 1], masks=(left_half(),))[0], PLACES[2])
        found = lab.predict(probe, positive=positive)
        assert torch.isfinite(found.positive).all() and len(notes) == 2  # prompts of other shapes run on their own

    def test_removed_tokens_are_an_error(self, apply: Any, lab: Any, model: Any) -> None:
        def shorten(args: Any, extra: Any) -> Any:
            out = extra["original_block"](args)
            return {**out, "img": out["img"][:, ::2]}

        before = model.clone()
        before.set_model_patch_replace(shorten, "dit", "double_block", 0)
        with pytest.raises(RuntimeError, match="32 tokens, in which the 64 image tokens of this picture are not found"):
            lab.predict(apply([0], before)[0])

    def test_masks_are_regions_of_the_token_grid(self, apply: Any, lab: Any) -> None:
        """17 x 11 latent pixels are 9 x 6 tokens."""
        mask = torch.zeros(1, 136, 88)
        mask[:, :64] = 1.0  # the upper 4 rows of tokens
        probe, notes = watched(apply([0], masks=(mask,))[0], PLACES[0])
        lab.predict(probe, noise=lab.noise(size=(17, 11)))
        before, after = (each.unflatten(1, (9, 6)) for each in notes[0])
        assert torch.equal(after[:, 5:], before[:, 5:])
        assert (after[:, :4] - before[:, :4]).abs().amax(-1).min() > 1e-3

    @pytest.mark.parametrize("key", PLACES)
    def test_people_in_their_masks_are_alone(self, apply: Any, lab: Any, key: tuple[str, int]) -> None:
        found = []
        for who in (1, 2):
            probe, notes = watched(apply([0, who], masks=(left_half(), 1.0 - left_half()))[0], key)
            lab.predict(probe)
            image = notes[0][1][:, -IMAGE_TOKENS:] - notes[0][0][:, -IMAGE_TOKENS:]
            found.append(image.unflatten(1, (8, 8)))
        if key == PLACES[0]:  # later blocks see the whole picture
            assert torch.equal(found[0][:, :, :4], found[1][:, :, :4])
        assert not torch.equal(found[0][:, :, 4:], found[1][:, :, 4:])


def test_chroma_has_the_same_places(apply: Any, lab: Any, make_chroma: Any) -> None:
    """A class of its own with FLUX's blocks, widths and hooks."""
    model = make_chroma()
    patched, _ = apply([0], model)
    found, plain = lab.predict(patched), lab.predict(model)
    assert torch.isfinite(found.positive).all() and (found.positive - plain.positive).abs().mean() > 0.01
    probe, notes = watched(patched, PLACES[3])
    lab.predict(probe)
    before, after = notes[0]
    assert torch.equal(after[:, :TEXT_TOKENS], before[:, :TEXT_TOKENS])
    assert (after[:, TEXT_TOKENS:] - before[:, TEXT_TOKENS:]).abs().amax(-1).min() > 1e-3


class TestWork:
    @pytest.fixture
    def folded(self, models: Any) -> Any:
        """(guidance halves' batch, people) of each call to the first block's projection."""
        calls: list[int] = []
        handle = models.weights.blocks[0].to_kv.register_forward_hook(lambda _, x, __: calls.append(x[0].shape[0]))
        yield calls
        handle.remove()

    def test_nobody_is_folded_once(self, apply: Any, lab: Any, folded: list[int]) -> None:
        lab.sample(apply([0, 1, 2])[0], steps=3)
        assert folded == [3, 1]

    def test_without_true_guidance_nobody_is_left_out(self, apply: Any, lab: Any, folded: list[int]) -> None:
        lab.sample(apply([0])[0], steps=2, cfg=1.0)
        assert folded == [1]

    def test_sampling_needs_no_weights(self, apply: Any, lab: Any, models: Any) -> None:
        patched, _ = apply([0])
        assert not patched.additional_models
        whole = lab.sample(patched)
        kept = {key: value.clone() for key, value in models.weights.blocks.state_dict().items()}

        def spoil(*_: Any) -> None:
            for weight in models.weights.blocks.state_dict().values():
                weight.fill_(torch.nan)

        try:
            assert torch.equal(lab.sample(patched, callback=spoil), whole)
        finally:
            models.weights.blocks.load_state_dict(kept)


class TestSharing:
    def test_the_same_person_twice_is_one(self, apply: Any, lab: Any) -> None:
        once = lab.predict(apply([0])[0]).positive
        for sharing in ("attention", "one each"):
            patched, record = apply([0, 0], sharing=sharing)
            torch.testing.assert_close(lab.predict(patched).positive, once, **SAME)
            assert not record.maps

    @pytest.mark.parametrize("sharing", ["attention", "one each"])
    def test_order_does_not_matter(self, apply: Any, lab: Any, sharing: str) -> None:
        found, maps = [], []
        for order in ([0, 1, 2], [2, 0, 1]):
            patched, record = apply(order, sharing=sharing)
            found.append(lab.predict(patched).positive)
            maps.append(record.maps[0][0])
        torch.testing.assert_close(*found, **SAME)
        assert torch.equal(torch.tensor([1, 2, 0], dtype=torch.uint8)[maps[0].long()], maps[1])

    def test_one_each_gives_each_place_to_one(self, apply: Any, lab: Any) -> None:
        def added(patched: Any) -> torch.Tensor:
            probe, notes = watched(patched, PLACES[0])
            lab.predict(probe)
            return (notes[0][1] - notes[0][0])[1:]

        patched, record = apply([0, 1], sharing="one each")
        found = added(patched)
        owner = record.maps[0][0].flatten(1)
        assert set(owner.unique().tolist()) == {0, 1}
        expected = torch.where((owner == 0)[..., None], *(added(apply([who])[0]) for who in (0, 1)))
        torch.testing.assert_close(found, expected, **SAME)
        assert not torch.allclose(added(apply([0, 1])[0]), expected, atol=1e-3)

    def test_people_without_a_mask_share_the_rest(self, apply: Any, lab: Any) -> None:
        patched, record = apply([0, 1, 2], masks=(None, left_half()))
        lab.predict(patched)
        assert sorted(record.maps[0]) == [0, 1, 2, 3]
        for drawn in record.maps[0].values():
            assert (drawn[..., :4] == 1).all() and set(drawn[..., 4:].unique().tolist()) <= {0, 2}

    def test_two_nodes_with_masks_are_one_node_with_both(self, apply: Any, lab: Any) -> None:
        left, right = left_half(), 1.0 - left_half()
        both = lab.predict(apply([0, 1], masks=(left, right))[0])
        chained, _ = apply([1], apply([0], masks=(left,))[0], masks=(right,))
        torch.testing.assert_close(lab.predict(chained).positive, both.positive, **SAME)


def skip(ours: Any, args: Any, extra: Any) -> Any:
    return extra["original_block"](args)


class TestAccelerators:
    """Packs that go through the blocks themselves: they drop arguments, skip blocks, or keep what blocks gave."""

    def around(self, model: Any, wrap: Callable[[Any, Any, Any], Any], keys: Sequence[Any] = PLACES) -> Any:
        """A clone in which `wrap(ours, args, extra)` sits around what sits in these slots."""
        clone = model.clone()
        for key in keys:
            ours = slots(clone)[key]
            clone.set_model_patch_replace(lambda args, extra, ours=ours: wrap(ours, args, extra), "dit", *key)
        return clone

    def test_options_that_are_not_handed_on(self, apply: Any, lab: Any) -> None:
        def drop(ours: Any, args: Any, extra: Any) -> Any:
            options = args["transformer_options"]
            kept = {key: value for key, value in args.items() if key not in ("transformer_options", "attn_mask")}
            block = extra["original_block"]
            return ours(kept, {"original_block": lambda a: block({**a, "transformer_options": options})})

        patched, _ = apply([0, 1], masks=(left_half(),))
        for prompt in (lab.prompt(11), lab.prompt(11, reference_latents=[lab.noise(size=(8, 12), seed=21)])):
            found = lab.predict(self.around(patched, drop), positive=prompt)
            assert torch.equal(found.positive, lab.predict(patched, positive=prompt).positive)
        with pytest.raises(RuntimeError, match="skips the blocks in a way that cannot be followed"):
            lab.predict(self.around(self.around(patched, drop, PLACES[2:]), skip, PLACES[:2]))

    def test_kept_outputs_are_not_written_to(self, apply: Any, lab: Any, model: Any) -> None:
        kept: list[torch.Tensor] = []

        def replay(args: Any, extra: Any) -> Any:
            if not kept:
                kept.extend(extra["original_block"](args)[name].clone() for name in ("img", "txt"))
                kept.append(kept[0].clone())
            return {"img": kept[0], "txt": kept[1].clone()}

        before = model.clone()
        before.set_model_patch_replace(replay, "dit", *PLACES[0])
        lab.predict(apply([0], before)[0])
        assert torch.equal(kept[0], kept[2])

    @pytest.mark.parametrize(("skipped", "warned"), [(1, False), (3, False), (4, True)])
    def test_skipped_blocks_are_reported_when_hardly_any_is_left(
        self, apply: Any, lab: Any, caplog: pytest.LogCaptureFixture, skipped: int, warned: bool
    ) -> None:
        with caplog.at_level(logging.WARNING, "likeness"):
            lab.sample(self.around(apply([0])[0], skip, PLACES[:skipped]), steps=3)
        found = [record.getMessage() for record in caplog.records if record.name.startswith("likeness")]
        assert len(found) == warned
        if warned:
            assert found[0].startswith("Apply PuLID: the identity reached only 0 of the 12 layers of this run")
