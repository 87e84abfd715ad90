"""What every system's patch must make of batches and of several conditionings (docs/contract.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

SAME = {"rtol": 1e-4, "atol": 1e-4}  # equal up to the order of float32 sums


class TestBatches:
    @pytest.mark.parametrize("people", [1, 2])
    @pytest.mark.parametrize("tokens", [77, 100])  # 100 beside 77 makes ComfyUI call the model for each half alone
    def test_rows_equal_their_single_runs(self, system: Any, people: int, tokens: int) -> None:
        model, lab, noise = system.apply(people=people), system.lab, system.lab.noise(batch=3)
        negative = lab.prompt(12, tokens=tokens)
        together = lab.predict(model, noise=noise, negative=negative)
        for row in range(3):
            alone = lab.predict(model, noise=noise[row : row + 1], negative=negative)
            torch.testing.assert_close(together.positive[row : row + 1], alone.positive, **SAME)
            torch.testing.assert_close(together.negative[row : row + 1], alone.negative, **SAME)

    def test_without_guidance_the_positive_half_is_the_same(self, system: Any) -> None:
        model, lab = system.apply(people=2), system.lab
        runs = [lab.sample(model, steps=1, cfg=1.0, negative=lab.prompt(seed)) for seed in (12, 13)]
        assert torch.equal(*runs)

    @pytest.mark.parametrize("order", [[0], [1, 0], [0, 1], [0, 1, 0]])
    @pytest.mark.parametrize("batch", [1, 2, 4])
    @pytest.mark.parametrize(("people", "masked"), [(1, False), (2, False), (2, True)])
    def test_each_row_is_its_single_run(
        self, system: Any, people: int, masked: bool, batch: int, order: list[int]
    ) -> None:
        """However many chunks ComfyUI puts into one call, and in whatever order."""
        left = torch.zeros(1, 128, 128)
        left[..., :64] = 1.0
        model = system.apply(people=people, masks=(left, 1.0 - left) if masked else ())
        noise, prompts = system.lab.noise(batch=batch), [system.lab.prompt(seed) for seed in (11, 12)]
        sigma = torch.tensor([model.get_model_object("model_sampling").percent_to_sigma(0.3)])

        def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
            conds = [guider.conds[name][0] for name in ("positive", "negative")]

            def run(kinds: list[int], x: torch.Tensor) -> torch.Tensor:
                """One call with a chunk of x for each kind, 0 positive and 1 negative; (len(kinds), len(x), ...)."""
                transformer_options = {
                    **options["transformer_options"],
                    "cond_or_uncond": kinds,
                    "uuids": [conds[kind]["uuid"] for kind in kinds],
                }
                inputs = {
                    name: torch.cat(
                        [conds[kind]["model_conds"][name].cond.repeat_interleave(len(x), 0) for kind in kinds]
                    )
                    for name in conds[0]["model_conds"]
                    if name in ("c_crossattn", "y", "guidance")
                }
                rows = torch.cat([x] * len(kinds))
                arguments = (rows, sigma.expand(len(rows)))
                out = guider.inner_model.apply_model(*arguments, **inputs, transformer_options=transformer_options)
                return out.unflatten(0, (len(kinds), len(x)))

            together = run(order, noise)
            for place, kind in enumerate(order):
                for row in {0, batch - 1}:
                    alone = run([kind], noise[row : row + 1])
                    torch.testing.assert_close(together[place, row], alone[0, 0], **SAME)
            return together

        assert torch.isfinite(system.lab.one_call(model, call, sigma, noise, *prompts)).all()

    @pytest.mark.parametrize("people", [1, 2])
    def test_conditionings_of_any_length_and_number(self, system: Any, people: int) -> None:
        """Longer prompts are run in calls of their own, several positives in one: the result is the same."""
        model, lab = system.apply(people=people), system.lab
        short, long = lab.prompt(11, tokens=77), lab.prompt(12, tokens=308)
        split = lab.predict(model, positive=short, negative=lab.prompt(12, tokens=100))
        joined = lab.predict(model, positive=short, negative=long)
        torch.testing.assert_close(split.positive, joined.positive, **SAME)
        several = lab.predict(model, positive=short + lab.prompt(11, tokens=77), negative=long)
        torch.testing.assert_close(several.positive, joined.positive, **SAME)

    def test_the_negative_half_has_its_own_tokens(self, system: Any) -> None:
        prompt = system.lab.prompt(11)
        found = system.lab.predict(system.apply(), positive=prompt, negative=prompt)
        assert (found.positive - found.negative).abs().mean() > 1e-3

    def test_areas_see_their_part_of_the_masks(self, system: Any) -> None:
        mask = torch.zeros(1, 128, 128)
        mask[..., 64:] = 1.0
        model, lab = system.apply(masks=[mask], term_only=True), system.lab
        left = lab.prompt(11, area=(16, 8, 0, 0))
        plain = lab.predict(system.model, positive=left, negative=lab.prompt(12))
        found = lab.predict(model, positive=left, negative=lab.prompt(12))
        assert torch.equal(found.positive, plain.positive)  # the left half holds nothing of this person
        right = lab.prompt(11, area=(16, 8, 0, 8))
        everywhere = lab.predict(system.apply(term_only=True), positive=right, negative=lab.prompt(12))
        found = lab.predict(model, positive=right, negative=lab.prompt(12))
        torch.testing.assert_close(found.positive, everywhere.positive, **SAME)
