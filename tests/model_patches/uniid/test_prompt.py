"""UniID's text branch: people as words of the prompt, beside everything else that CONDITIONING can hold."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from likeness.adapters.prompt_tokens import CHUNK, insert_tokens

SAME = {"rtol": 1e-4, "atol": 1e-4}
PUBLISHED = 0.1895  # percent of the noise schedule between steps 4 and 5 of 30 of the published spacing


def ranges(positive: Any) -> list[tuple[float, float]]:
    return [(round(o.get("start_percent", 0.0), 4), round(o.get("end_percent", 1.0), 4)) for _, o in positive]


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1.0
    return mask


@pytest.fixture(scope="module")
def words(tiny: Any) -> list[torch.Tensor]:
    return [one.tokens["text"] for one in tiny.people]


def from_core_nodes(tiny: Any, words: torch.Tensor, scales: tuple[float, float], percent: float, **options: Any) -> Any:
    """The same prompt made of ComfyUI's own parts: two entries with a range each."""
    ((embeds, rest),) = tiny.lab.prompt(11, **options)
    before, after = ([insert_tokens(embeds, scale * words), dict(rest)] for scale in scales)
    before[1]["end_percent"], after[1]["start_percent"] = percent, percent
    return [before, after]


class TestEntries:
    def test_one_becomes_two_with_the_published_percent(self, tiny: Any, words: Any) -> None:
        _, positive = tiny.apply()
        assert ranges(positive) == [(0.0, PUBLISHED), (PUBLISHED, 1.0)]
        for (embeds, options), scale in zip(positive, (0.5, 1.8), strict=True):
            plain, rest = tiny.lab.prompt(11)[0]
            assert torch.equal(embeds, insert_tokens(plain, scale * words[0]))
            assert options["pooled_output"] is not None and torch.equal(options["pooled_output"], rest["pooled_output"])

    def test_they_are_what_core_nodes_would_make(self, tiny: Any, words: Any) -> None:
        from likeness.model_patches.merge_step import MergePercent
        from likeness.model_patches.uniid_patch import Scales

        model, positive = tiny.apply(merge=MergePercent(0.4), adapter=Scales(0.0, 0.0))
        core = from_core_nodes(tiny, words[0], (0.5, 1.8), 0.4)
        found, expected = (tiny.lab.sample(m, 8, positive=p) for m, p in ((model, positive), (tiny.model, core)))
        torch.testing.assert_close(found, expected, **SAME)

    def test_without_the_model_the_published_percent_counts(self, tiny: Any, words: Any) -> None:
        """As where the model comes from elsewhere: karras reaches that noise level at step 7 of 30, not at step 5."""
        import comfy.samplers

        model, calls = tiny.recorded(tiny.model)
        sampler = comfy.samplers.KSampler(model, 30, "cpu", "euler", "karras", 1.0, model.model_options)
        noise, (_, positive) = tiny.lab.noise(size=(8, 8)), tiny.apply()
        sampler.sample(noise, positive, tiny.lab.prompt(12), 5.0, torch.zeros_like(noise), disable_pbar=True)
        level = model.get_model_object("model_sampling").percent_to_sigma(PUBLISHED)
        assert [call.text > 1 for call in calls] == [call.sigma < level for call in calls]
        assert sum(call.text < 1 for call in calls) == 7

    @pytest.mark.parametrize(("step", "scale"), [(0, 1.8), (30, 0.5)])
    def test_one_entry_where_there_is_no_merge(self, tiny: Any, words: Any, step: int, scale: float) -> None:
        from likeness.model_patches.merge_step import MergeStep

        ((embeds, options),) = tiny.apply(merge=MergeStep(step, 30))[1]
        assert torch.equal(embeds, insert_tokens(tiny.lab.prompt(11)[0][0], scale * words[0]))
        assert set(options) == {"pooled_output"}

    def test_one_entry_for_equal_scales(self, tiny: Any) -> None:
        from likeness.model_patches.uniid_patch import Scales

        assert len(tiny.apply(text=Scales(1.0, 1.0))[1]) == 1

    def test_a_scale_of_zero_puts_silent_words_in_as_published(self, tiny: Any) -> None:
        from likeness.model_patches.uniid_patch import Scales

        (before, _), (after, _) = tiny.apply(text=Scales(0.0, 1.0))[1]
        assert not before[0, 1:4].any() and after[0, 1:4].any()

    def test_the_prompt_that_came_in_is_unchanged(self, tiny: Any) -> None:
        given, twin = tiny.lab.prompt(11), tiny.lab.prompt(11)
        model, positive = tiny.apply(given)
        tiny.lab.sample(model, 2, positive=positive)
        assert torch.equal(given[0][0], twin[0][0]) and set(given[0][1]) == set(twin[0][1])
        assert ranges(positive) == [(0.0, PUBLISHED), (PUBLISHED, 1.0)]  # runs set their own copies

    def test_the_negative_prompt_has_no_words(self, tiny: Any) -> None:
        model, positive = tiny.apply()
        model, _ = tiny.recorded(model)
        negative, seen = tiny.lab.prompt(12), []
        model.set_model_attn2_patch(
            lambda q, k, v, options: (seen.append((k, options["cond_or_uncond"])), (q, k, v))[1]
        )
        tiny.lab.predict(model, positive=positive, negative=negative)
        contexts, kinds = seen[0]
        assert torch.equal(contexts.chunk(2)[kinds.index(1)], negative[0][0])


class TestOtherOptions:
    def test_every_entry_gets_the_words(self, tiny: Any, words: Any) -> None:
        given = tiny.lab.prompt(11) + tiny.lab.prompt(13, area=(8, 16, 0, 0)) + tiny.lab.prompt(14, strength=0.5)
        _, positive = tiny.apply(given)
        assert len(positive) == 6
        for (embeds, options), scale in zip(positive[2:4], (0.5, 1.8), strict=True):
            assert torch.equal(embeds[0, 1:4], scale * words[0]) and options["area"] == (8, 16, 0, 0)
        assert [options["strength"] for _, options in positive[4:]] == [0.5, 0.5]

    def test_ranges_that_are_there_are_kept(self, tiny: Any) -> None:
        given = tiny.lab.prompt(11, start_percent=0.1, end_percent=0.6) + tiny.lab.prompt(13, start_percent=0.6)
        _, positive = tiny.apply(given)
        assert ranges(positive) == [(0.1, PUBLISHED), (PUBLISHED, 0.6), (0.6, PUBLISHED), (0.6, 1.0)]

    def test_an_entry_that_ends_before_the_merge_is_never_strong(self, tiny: Any) -> None:
        """Prompt travel: one prompt for the first half, another one for the rest; the merge comes at step 2 of 8."""
        from likeness.model_patches.merge_step import MergeStep

        given = tiny.lab.prompt(11, end_percent=0.5) + tiny.lab.prompt(13, start_percent=0.501)
        model, positive = tiny.apply(given, merge=MergeStep(2, 8))
        assert used_by_steps(tiny, model, positive) == [0.5] * 2 + [1.8] * 6
        model, positive = tiny.apply(given, merge=MergeStep(6, 8))
        assert used_by_steps(tiny, model, positive) == [0.5] * 6 + [1.8] * 2

    def test_a_range_that_a_later_node_sets(self, tiny: Any) -> None:
        """Set Timestep Range behind Apply UniID overwrites both ranges; the run still tells the phases apart."""
        import node_helpers
        from likeness.model_patches.merge_step import MergeStep

        model, positive = tiny.apply(merge=MergeStep(3, 8))
        late = node_helpers.conditioning_set_values(positive, {"start_percent": 0.0, "end_percent": 0.7})
        assert used_by_steps(tiny, model, late) == [0.5] * 3 + [1.8] * 2 + [None] * 3

    def test_two_nodes_in_a_row(self, tiny: Any, words: Any) -> None:
        """Each adds its people with a merge of its own."""
        from likeness.model_patches.merge_step import MergeStep
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        model, positive = tiny.apply(merge=MergeStep(2, 8))
        second = UniidSettings(merge=MergeStep(5, 8))
        model, positive, *_ = apply_uniid(model, positive, tiny.models, tiny.people[1:2], second)
        assert len(positive) == 4
        contexts = contexts_by_steps(tiny, model, positive)
        new, old = (
            [round(float(c[0, i : i + 3].norm() / w.norm()), 3) for c in contexts]
            for i, w in ((1, words[1]), (4, words[0]))
        )
        assert new == [0.5] * 5 + [1.8] * 3
        assert old == [0.5] * 2 + [1.8] * 6

    def test_controlnets(self, tiny: Any) -> None:
        from comfy.controlnet import ControlBase

        class Constant(ControlBase):
            def get_control(self, *_: Any) -> dict[str, list[torch.Tensor]]:
                return {"input": [], "middle": [torch.full((1, 1, 1, 1), 2.0)], "output": []}

        control = Constant()
        model, plain = tiny.apply()
        _, controlled = tiny.apply(tiny.lab.prompt(11, control=control))
        assert [options["control"] for _, options in controlled] == [control, control]
        found, free = (tiny.lab.sample(model, 4, positive=positive) for positive in (controlled, plain))
        assert (found - free).abs().mean() > 1e-3
        used = used_by_steps(tiny, model, controlled, steps=30)  # with calls for the negative prompt of their own
        assert [scale for scale in used if scale is not None] == [0.5] * 5 + [1.8] * 25

    def test_masks_and_areas_of_entries_stay(self, tiny: Any) -> None:
        mask = left_half()
        model, positive = tiny.apply(tiny.lab.prompt(11, mask=mask) + tiny.lab.prompt(13, area=(16, 8, 0, 8)))
        assert [options.get("mask") is mask for _, options in positive] == [True, True, False, False]
        assert torch.isfinite(tiny.lab.sample(model, 3, positive=positive)).all()


class TestLongPrompts:
    def test_words_go_into_the_first_chunk_only(self, tiny: Any, words: Any, caplog: Any) -> None:
        given = tiny.lab.prompt(11, tokens=3 * CHUNK)
        with caplog.at_level(logging.WARNING, "likeness"):
            model, positive = tiny.apply(given)
        (embeds, _), plain = positive[1], given[0][0]
        assert torch.equal(embeds[0, 1:4], 1.8 * words[0])
        assert torch.equal(embeds[:, 4:CHUNK], plain[:, 1 : CHUNK - 3]) and torch.equal(
            embeds[:, CHUNK:], plain[:, CHUNK:]
        )
        assert "the last 3 positions of its first 77 fall off" in caplog.text
        assert torch.isfinite(tiny.lab.sample(model, 2, positive=positive)).all()

    def test_short_prompts_are_no_news(self, tiny: Any, caplog: Any) -> None:
        tiny.apply()
        assert not caplog.records

    def test_more_people_than_a_prompt_holds(self, tiny: Any) -> None:
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        with pytest.raises(ValueError, match="78 text tokens do not fit into a prompt of 77"):
            apply_uniid(tiny.model, tiny.lab.prompt(11), tiny.models, [tiny.people[0]] * 26, UniidSettings())


class TestSeveralPeople:
    def test_together(self, tiny: Any, words: Any) -> None:
        _, positive = tiny.apply(people=3)
        assert len(positive) == 2
        assert torch.equal(positive[1][0][0, 1:10], 1.8 * torch.cat(words))

    def test_by_mask(self, tiny: Any, words: Any) -> None:
        """One prompt with each person's words inside their mask, and the plain prompt where nobody is."""
        from likeness.model_patches.uniid_patch import BY_MASK

        top = torch.zeros(1, 128, 128)
        top[:, :32, 64:] = 1.0
        _, positive = tiny.apply(people=2, several_texts=BY_MASK, masks=(left_half(), top))
        assert len(positive) == 5
        for entry, who, mask in ((0, 0, left_half()), (2, 1, top)):
            for offset, scale in enumerate((0.5, 1.8)):
                embeds, options = positive[entry + offset]
                assert torch.equal(embeds[0, 1:4], scale * words[who]) and torch.equal(options["mask"], mask)
        embeds, options = positive[4]
        assert torch.equal(embeds, tiny.lab.prompt(11)[0][0])
        assert torch.equal(options["mask"], 1.0 - left_half() - top) and ranges(positive)[4] == (0.0, 1.0)

    def test_people_without_a_mask_are_where_nobody_else_is(self, tiny: Any, words: Any) -> None:
        from likeness.model_patches.uniid_patch import BY_MASK

        _, positive = tiny.apply(people=3, several_texts=BY_MASK, masks=(None, left_half()))
        assert len(positive) == 4
        assert torch.equal(positive[3][0][0, 1:7], 1.8 * torch.cat([words[0], words[2]]))
        assert torch.equal(positive[3][1]["mask"], 1.0 - left_half())

    def test_masks_that_cover_all_leave_no_plain_prompt(self, tiny: Any) -> None:
        from likeness.model_patches.uniid_patch import BY_MASK

        soft = torch.rand(1, 128, 128)
        _, positive = tiny.apply(people=2, several_texts=BY_MASK, masks=(soft, 1.0 - soft))
        assert len(positive) == 4

    def test_without_masks_by_mask_is_together(self, tiny: Any) -> None:
        from likeness.model_patches.uniid_patch import BY_MASK

        found, expected = (tiny.apply(people=2, several_texts=how)[1] for how in (BY_MASK, "together"))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(found, expected, strict=True))

    def test_inside_masks_of_the_prompt(self, tiny: Any) -> None:
        """The entry's own mask, of another size, still bounds it."""
        from likeness.model_patches.uniid_patch import BY_MASK

        own = torch.zeros(1, 64, 64)
        own[:, :32] = 1.0
        _, positive = tiny.apply(tiny.lab.prompt(11, mask=own), several_texts=BY_MASK, masks=(left_half(),))
        expected = torch.zeros(1, 64, 64)
        expected[:, :32, :32] = 1.0
        torch.testing.assert_close(positive[0][1]["mask"], expected)
        torch.testing.assert_close(positive[2][1]["mask"], own - expected)

    def test_each_half_is_the_picture_of_its_person(self, tiny: Any) -> None:
        """What the model predicts in a mask is what it predicts with that person's words alone."""
        from likeness.model_patches.uniid import UniidSettings, apply_uniid
        from likeness.model_patches.uniid_patch import BY_MASK, Scales

        switches = {"adapter": Scales(0.0, 0.0), "text": Scales(1.0, 1.0)}
        model, both = tiny.apply(people=2, several_texts=BY_MASK, masks=(left_half(), 1.0 - left_half()), **switches)
        found = tiny.lab.predict(model, positive=both).positive
        for who, columns in ((0, slice(0, 8)), (1, slice(8, 16))):
            settings = UniidSettings(**switches)
            _, alone, *_ = apply_uniid(tiny.model, tiny.lab.prompt(11), tiny.models, [tiny.people[who]], settings)
            expected = tiny.lab.predict(model, positive=alone).positive
            torch.testing.assert_close(found[..., columns], expected[..., columns], **SAME)


def contexts_by_steps(tiny: Any, model: Any, positive: Any, steps: int = 8) -> list[Any]:
    """The positive prompt of each step as the UNet was given it; None where there was none."""
    from comfy.patcher_extension import WrappersMP

    seen: list[Any] = []

    def look(executor: Any, x: torch.Tensor, timesteps: Any, context: torch.Tensor, *args: Any, **rest: Any) -> Any:
        kinds = args[2]["cond_or_uncond"]
        assert kinds.count(0) <= 1, "two phases of the prompt were active at once"
        seen.append(context.chunk(len(kinds))[kinds.index(0)] if 0 in kinds else None)
        return executor(x, timesteps, context, *args, **rest)

    probe = model.clone()
    probe.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    tiny.lab.sample(probe, steps, positive=positive, noise=tiny.lab.noise(size=(8, 8)))
    return seen


def used_by_steps(tiny: Any, model: Any, positive: Any, steps: int = 8) -> list[float | None]:
    words = tiny.people[0].tokens["text"].norm()
    contexts = contexts_by_steps(tiny, model, positive, steps)
    return [None if context is None else round(float(context[0, 1:4].norm() / words), 3) for context in contexts]
