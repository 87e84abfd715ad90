"""From what the backbone sees to a person's tokens, and the person as an identity."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.identity import Identity, load_identity, mix_identities, save_identity
from likeness.adapters.image_resampler import ImageResampler
from likeness.adapters.uniid import UniID
from likeness.adapters.uniid_tokens import uniid_tokens


def test_photos_are_averaged_token_by_token(tiny_uniid, seen):
    adapter, (face, maps) = tiny_uniid(), seen(3)
    person = uniid_tokens(adapter, face, maps)
    assert {key: tuple(value.shape) for key, value in person.items()} == {
        "cond": (5, 20),
        "uncond": (5, 20),
        "text": (3, 20),
    }
    alone = [uniid_tokens(adapter, face[k : k + 1], [each[k : k + 1] for each in maps]) for k in range(3)]
    for kind in ("cond", "text"):
        torch.testing.assert_close(person[kind], torch.stack([each[kind] for each in alone]).mean(0))
        assert not torch.allclose(alone[0][kind], alone[1][kind])
    for each in alone:
        assert torch.equal(each["uncond"], person["uncond"])
    first, second = adapter.text_branch(face[:1], maps[-1][:1])
    torch.testing.assert_close(alone[0]["text"], torch.cat([first[0], second[0]], dim=-1))
    assert person["uncond"].any()


def test_either_branch_alone(tiny_uniid, seen):
    face, maps = seen(1)
    both, text = uniid_tokens(tiny_uniid(), face, maps), uniid_tokens(tiny_uniid("text"), face, maps)
    assert text["cond"].shape == text["uncond"].shape == (0, 20)
    assert torch.equal(text["text"], both["text"])
    adapter = uniid_tokens(tiny_uniid("adapter"), face, maps)
    assert set(adapter) == {"cond", "uncond"}
    assert torch.equal(adapter["cond"], both["cond"]) and torch.equal(adapter["uncond"], both["uncond"])


def test_the_adapters_name_norms_go_along(tiny_uniid, seen):
    adapter = tiny_uniid()
    adapter.name_norms = torch.rand(3, 2)
    assert torch.equal(uniid_tokens(adapter, *seen(1))["norms"], adapter.name_norms)


def test_a_person_needs_a_photo(tiny_uniid, seen):
    with pytest.raises(ValueError, match="at least one photo"):
        uniid_tokens(tiny_uniid(), *seen(0))


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_branches_in_half_precision(tiny_uniid, seen, dtype, allowed):
    face, maps = seen(2)
    exact = uniid_tokens(tiny_uniid(), face, maps)
    half = uniid_tokens(tiny_uniid().to(dtype), face.to(dtype), [each.to(dtype) for each in maps])
    for kind, tokens in half.items():
        assert tokens.dtype == dtype
        assert (tokens.float() - exact[kind]).abs().mean() / exact[kind].abs().mean() < allowed


def test_gradients_reach_every_parameter(tiny_uniid, seen):
    adapter = tiny_uniid().requires_grad_()
    face, maps = seen(3)
    words = torch.cat(adapter.text_branch(face, maps[-1]), dim=-1)
    tokens = adapter.resampler(maps)
    keys_values = torch.cat([torch.cat(projection(tokens), -1) for projection in adapter.projections.values()], -1)
    for result in (words, keys_values):
        (result * torch.randn_like(result)).sum().backward()
    idle = [name for name, value in adapter.named_parameters() if value.grad is None or not value.grad.any()]
    assert not idle


def test_a_fresh_adapter_gives_zeros(tiny_uniid_sizes, seen):
    """Exactly, so that keys and values without a bias are zeros too; and the first step of training moves it."""
    torch.manual_seed(0)
    adapter = UniID(tiny_uniid_sizes)
    tokens = adapter.resampler(seen(2)[1])
    assert torch.equal(tokens, torch.zeros(2, 5, 20))
    tokens.square().sum().backward()
    assert adapter.resampler.norm_out.bias.grad is not None
    assert isinstance(adapter.resampler, ImageResampler)


class TestIdentity:
    @pytest.fixture
    def person(self, tiny_uniid, seen):
        """`person(k)`: someone, encoded with both branches; another one for each k."""

        def encode(k: int, *branches: str) -> Identity:
            face, maps = seen(k + 1)
            tokens = uniid_tokens(tiny_uniid(*branches), face[k:], [each[k:] for each in maps])
            if "text" in tokens:
                tokens["norms"] = torch.full((3, 2), 20.0 + k)
            return Identity("uniid", "a+b", tokens, f"person {k}", "1")

        return encode

    @pytest.mark.parametrize("branches", [(), ("text",), ("adapter",)])
    def test_saved_and_loaded(self, person, tmp_path, branches):
        identity = person(0, *branches)
        save_identity(identity, tmp_path / "person.safetensors")
        assert load_identity(tmp_path / "person.safetensors") == identity
        assert not identity.is_nobody

    def test_words_count_in_comparisons(self, person):
        identity = person(0)
        assert identity == person(0)
        without = {key: value for key, value in identity.tokens.items() if key != "norms"}
        assert identity != Identity("uniid", "a+b", without, "person 0", "1")
        assert Identity("uniid", "a+b", without, "person 0", "1") != identity

    def test_mixing_blends_what_is_a_persons_own(self, person):
        main, other = person(0), person(1)
        mixed = mix_identities(main, [(other, 0.25)])
        for kind in ("cond", "text"):
            torch.testing.assert_close(mixed.tokens[kind], 0.75 * main.tokens[kind] + 0.25 * other.tokens[kind])
        for kind in ("uncond", "norms"):
            assert torch.equal(mixed.tokens[kind], main.tokens[kind])
        assert mix_identities(main, [(other, 1.0)], "x").tokens["text"].equal(other.tokens["text"])

    def test_people_of_the_text_branch_alone_mix(self, person):
        mixed = mix_identities(person(0, "text"), [(person(1, "text"), 0.5)])
        assert mixed.tokens["cond"].shape == (0, 20) and mixed.tokens["text"].shape == (3, 20)

    def test_people_of_different_branches_do_not_mix(self, person):
        with pytest.raises(ValueError, match=r'"person 0" and "person 1": they have different numbers of tokens'):
            mix_identities(person(0), [(person(1, "adapter"), 0.5)])

    def test_nobody_has_neither_tokens_nor_words(self):
        empty = torch.zeros(0, 20)
        assert Identity("uniid", "a+b", {"cond": empty, "uncond": empty}).is_nobody
        assert Identity("uniid", "a+b", {"cond": empty, "uncond": empty, "text": empty}).is_nobody
        assert not Identity("uniid", "a+b", {"cond": empty, "uncond": empty, "text": torch.ones(3, 20)}).is_nobody

    @pytest.mark.parametrize("norms", [torch.ones(2, 2), torch.ones(3, 1), torch.ones(0, 2)])
    def test_norms_that_do_not_fit_the_words(self, person, norms):
        with pytest.raises(ValueError, match=r'"norms" are \(n, 2\) for n tokens of "text"'):
            Identity("uniid", "a+b", {**person(0).tokens, "norms": norms})
        with pytest.raises(ValueError, match=r'"norms" are \(n, 2\) for n tokens of "text"'):
            Identity("uniid", "a+b", {**person(0, "adapter").tokens, "norms": torch.ones(3, 2)})
