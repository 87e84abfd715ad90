"""What Apply UniID refuses and leaves alone, whose norms words get, and either branch alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from likeness.adapters.identity import Identity
from likeness.adapters.prompt_tokens import match_norms

SPLIT = 24  # width of the first text encoder


def zero() -> Any:
    from likeness.model_patches.uniid_patch import Scales

    return Scales(0.0, 0.0)


@pytest.fixture
def text_only(tiny: Any, make_uniid: Any, uniid_people: Any) -> Any:
    models = make_uniid(adapter=False)
    return replace(tiny, models=models, people=uniid_people(models, [0, 1]))


@pytest.fixture
def adapter_only(tiny: Any, make_uniid: Any, uniid_people: Any) -> Any:
    models = make_uniid(text=False)
    return replace(tiny, models=models, people=uniid_people(models, [0, 1]))


class TestEitherBranch:
    def test_strengths_of_zero_change_nothing(self, tiny: Any) -> None:
        given = tiny.lab.prompt(11)
        model, positive = tiny.apply(given, text=zero(), adapter=zero())
        assert positive is given and not model.wrappers
        assert "patches_replace" not in model.model_options["transformer_options"]
        found, expected = (tiny.lab.sample(each, positive=given) for each in (model, tiny.model))
        assert torch.equal(found, expected)

    def test_text_alone_fills_no_slot(self, text_only: Any) -> None:
        model, positive = text_only.apply()
        assert len(positive) == 2
        assert "patches_replace" not in model.model_options["transformer_options"]
        assert not torch.equal(text_only.lab.sample(model, positive=positive), text_only.lab.sample(text_only.model))

    def test_the_adapter_alone_leaves_the_prompt(self, adapter_only: Any) -> None:
        given = adapter_only.lab.prompt(11)
        model, positive = adapter_only.apply(given)
        assert positive is given
        assert not torch.equal(adapter_only.lab.sample(model), adapter_only.lab.sample(adapter_only.model))

    def test_both_are_one_after_the_other(self, tiny: Any) -> None:
        """The two branches know nothing of each other."""
        model, positive = tiny.apply()
        first, words = tiny.apply(adapter=zero())
        second, _ = tiny.apply(model=first, text=zero())
        found, expected = (tiny.lab.sample(m, positive=p) for m, p in ((model, positive), (second, words)))
        assert torch.equal(found, expected)

    def test_people_with_both_serve_either(self, tiny: Any, text_only: Any, adapter_only: Any) -> None:
        assert all(each.models.made(person) for each in (text_only, adapter_only) for person in tiny.people)

    def test_what_a_branch_has_not_seen_is_refused(self, tiny: Any, text_only: Any, adapter_only: Any) -> None:
        for people in (text_only.people, adapter_only.people):
            with pytest.raises(ValueError, match="identity 1 was made by another UniID file"):
                replace(tiny, people=people).apply()


class TestNorms:
    def words(self, positive: Any) -> torch.Tensor:
        """Of the second phase, without its scale."""
        return positive[1][0][0, 1:4] / 1.8

    def test_those_given_come_before_the_adapters_and_the_identitys(self, tiny: Any, make_uniid: Any) -> None:
        from likeness.model_patches.name_norms import NameNorms
        from likeness.model_patches.uniid import NO_NORMS, UniidSettings, apply_uniid

        given, own, stored = (factor * torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]) for factor in (1, 2, 3))
        models, raw = make_uniid(), tiny.people[0]
        person = replace(raw, tokens={**raw.tokens, "norms": stored})

        def applied(who: Identity, norms: Any = None) -> tuple[torch.Tensor, str]:
            _, positive, _, used = apply_uniid(tiny.model, tiny.lab.prompt(11), models, [who], UniidSettings(), norms)
            return self.words(positive), used

        def expected(norms: torch.Tensor | None) -> torch.Tensor:
            return raw.tokens["text"] if norms is None else match_norms(raw.tokens["text"], norms, SPLIT)

        cases = [(raw, None, None, NO_NORMS), (person, None, stored, "the identity's norms")]
        for who, norms, wanted, name in cases:
            words, used = applied(who, norms)
            assert used == name
            torch.testing.assert_close(words, expected(wanted))
        models.weights.name_norms = own
        words, used = applied(person)
        assert used == "the adapter's norms"
        torch.testing.assert_close(words, expected(own))
        words, used = applied(person, NameNorms(given, "691 names"))
        assert used == "norms of 691 names"
        torch.testing.assert_close(words, expected(given))

    def test_norms_for_another_number_of_words(self, tiny: Any) -> None:
        from likeness.model_patches.name_norms import NameNorms
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        norms = NameNorms(torch.ones(4, 2), "names")
        with pytest.raises(ValueError, match=r"name norms are \(4, 2\), but a person has 3 text tokens.*Name Norms"):
            apply_uniid(tiny.model, tiny.lab.prompt(11), tiny.models, tiny.people[:1], UniidSettings(), norms)

    def test_people_with_and_without_norms(self, tiny: Any) -> None:
        from likeness.model_patches.uniid import NO_NORMS, UniidSettings, apply_uniid

        first, second = tiny.people[:2]
        first = replace(first, tokens={**first.tokens, "norms": torch.ones(3, 2)})
        arguments = (tiny.model, tiny.lab.prompt(11), tiny.models, [first, second], UniidSettings())
        _, positive, _, used = apply_uniid(*arguments)
        assert used == f"the identity's norms, {NO_NORMS}"
        torch.testing.assert_close(positive[1][0][0, 4:7] / 1.8, second.tokens["text"])


class TestRefusals:
    def test_nobody(self, tiny: Any) -> None:
        with pytest.raises(ValueError, match="Apply UniID: no identity is connected"):
            tiny.apply(people=0)

    @pytest.mark.parametrize("branches", ["tiny", "text_only", "adapter_only"])
    @pytest.mark.parametrize("network", ["sd15", "flux"])
    def test_another_base_model(self, request: Any, branches: str, network: str) -> None:
        system, model = request.getfixturevalue(branches), request.getfixturevalue(f"make_{network}")()
        with pytest.raises(ValueError, match="Apply UniID: this is a Tiny.* model. UniID works with SDXL models"):
            system.apply(model=model)

    @pytest.mark.parametrize("branches", ["tiny", "text_only"])
    def test_other_sizes(self, request: Any, make_sdxl: Any, branches: str) -> None:
        with pytest.raises(ValueError, match="other layer widths.*with context 128, adapter 32 with 64"):
            request.getfixturevalue(branches).apply(model=make_sdxl(context=128))

    def test_a_prompt_of_other_encoders(self, tiny: Any) -> None:
        wide = [[torch.zeros(1, 77, 32), {}]]
        with pytest.raises(ValueError, match="text tokens are 64 wide and the prompt 32.*CLIP of an SDXL model"):
            tiny.apply(wide)

    def test_identities_of_others(self, tiny: Any) -> None:
        (someone, *_) = tiny.people
        strangers = {
            "identity 1 .Ann. was made by another UniID file": replace(someone, adapter="0" * 64 + "+", label="Ann"),
            "identity 1 was made by another UniID file": replace(someone, adapter="+" + "0" * 64),
            "was made by pulid-v1.1, and uniid is connected.*with the UniID adapter": replace(
                someone, system="pulid-v1.1"
            ),
        }
        for message, stranger in strangers.items():
            with pytest.raises(ValueError, match=message):
                replace(tiny, people=[stranger]).apply()

    @pytest.mark.parametrize("branches", ["tiny", "text_only"])
    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ((torch.ones(1, 64, 64), torch.ones(1, 64, 32)), r"different sizes \(64x64, 32x64\)"),
            ((None, torch.zeros(1, 96, 64)), "identity 2 is empty, so"),
            ((None, None, torch.ones(1, 64, 64)), "3 masks for 2 identities"),
        ],
    )
    def test_masks(self, request: Any, branches: str, masks: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            request.getfixturevalue(branches).apply(people=2, masks=masks)

    def test_unknown_choices(self) -> None:
        from likeness.model_patches.uniid_patch import UniidSettings

        with pytest.raises(ValueError, match='people share places by attention or one each, not by "router"'):
            UniidSettings(sharing="router")
        with pytest.raises(ValueError, match='words of several people count together or by mask, not "apart"'):
            UniidSettings(several_texts="apart")
