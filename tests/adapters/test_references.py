"""PuLID's photos of one person: the condition, one and several photos, nobody."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.identity import Identity, load_identity, mix_identities, save_identity
from likeness.adapters.pulid import EDITIONS
from likeness.adapters.references import JOININGS, id_condition, person_tokens


@pytest.fixture
def photos():
    """`photos(k, seed)`: id_cond and hidden states of k photos."""

    def make(k, seed=1):
        generator = torch.Generator().manual_seed(seed)
        states = [torch.randn(k, 6, 10, generator=generator) for _ in range(5)]
        return torch.randn(k, 14, generator=generator), states

    return make


def test_condition_is_raw_arcface_then_clip_of_length_one():
    generator = torch.Generator().manual_seed(0)
    face, projected = 20 * torch.randn(3, 512, generator=generator), 7 * torch.randn(3, 768, generator=generator)
    condition = id_condition(face, projected)
    assert condition.shape == (3, 1280)
    assert torch.equal(condition[:, :512], face)
    torch.testing.assert_close(condition[:, 512:].norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(condition[:, 512:] * projected.norm(dim=-1, keepdim=True), projected)


def test_condition_of_the_published_preprocessing(golden):
    file = golden("pulid", "08_face_composite")
    inputs, expected = file.inputs(), file.expected()
    for photo in ("img0", "img1"):
        condition = id_condition(inputs[f"{photo}.ante_embedding"][None], inputs[f"{photo}.clip_proj"])
        torch.testing.assert_close(condition, expected[f"{photo}.id_cond"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("joining", JOININGS)
def test_one_photo_is_the_encoders_answer(tiny_pulid, photos, edition, joining):
    encoder, (id_cond, hidden) = tiny_pulid(edition).encoder, photos(1)
    tokens = person_tokens(encoder, id_cond, hidden, joining)
    assert torch.equal(tokens["cond"], encoder(id_cond, hidden)[0])
    nobody = encoder(torch.zeros(1, 14), [torch.zeros(1, 6, 10) for _ in range(5)])[0]
    assert torch.equal(tokens["uncond"], nobody)
    assert nobody.abs().max() > 0.01  # the encoder's answer to zeros, not zeros


@pytest.mark.parametrize(("joining", "expected"), [("published", [10, 15, 20]), ("all tokens", [10, 20, 30])])
def test_v1_has_tokens_of_each_photo(tiny_pulid, photos, joining, expected):
    encoder = tiny_pulid("pulid-v1").encoder
    for k, num_tokens in zip((1, 2, 3), expected, strict=True):
        tokens = person_tokens(encoder, *photos(k), joining)
        assert tokens["cond"].shape == tokens["uncond"].shape == (num_tokens, 20)


@pytest.mark.parametrize("edition", ["pulid-v1.1", "pulid-flux"])
@pytest.mark.parametrize("joining", JOININGS)
def test_the_others_have_as_many_tokens_for_any_number_of_photos(tiny_pulid, photos, edition, joining):
    encoder = tiny_pulid(edition).encoder
    nobody = person_tokens(encoder, *photos(1), joining)["uncond"]
    for k in (1, 2, 20):
        tokens = person_tokens(encoder, *photos(k), joining)
        assert tokens["cond"].shape == (6, 20)
        assert torch.equal(tokens["uncond"], nobody)


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("joining", JOININGS)
def test_every_photo_counts(tiny_pulid, photos, edition, joining):
    encoder, (id_cond, hidden) = tiny_pulid(edition).encoder, photos(3)
    tokens = person_tokens(encoder, id_cond, hidden, joining)["cond"]
    for photo in range(3):
        changed = id_cond.clone()
        changed[photo] += 1.0
        assert not torch.equal(person_tokens(encoder, changed, hidden, joining)["cond"], tokens)


def test_the_mean_is_over_tokens(tiny_pulid, photos):
    for edition in EDITIONS:
        encoder, (id_cond, hidden) = tiny_pulid(edition).encoder, photos(3)
        alone = [encoder(id_cond[k : k + 1], [state[k : k + 1] for state in hidden])[0] for k in range(3)]
        mean = person_tokens(encoder, id_cond, hidden, "mean")["cond"]
        torch.testing.assert_close(mean, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-5)


def test_order_of_photos_read_together_does_not_matter(tiny_pulid, photos):
    encoder, (id_cond, hidden) = tiny_pulid("pulid-v1.1").encoder, photos(3)
    order = [2, 0, 1]
    torch.testing.assert_close(
        person_tokens(encoder, id_cond[order], [state[order] for state in hidden])["cond"],
        person_tokens(encoder, id_cond, hidden)["cond"],
        atol=1e-5,
        rtol=1e-5,
    )


def test_nothing_and_nonsense_are_refused(tiny_pulid, photos):
    encoder, (id_cond, hidden) = tiny_pulid("pulid-v1").encoder, photos(2)
    with pytest.raises(ValueError, match="at least one photo"):
        person_tokens(encoder, id_cond[:0], [state[:0] for state in hidden])
    with pytest.raises(ValueError, match='joined by published, all tokens, mean, not by "sum"'):
        person_tokens(encoder, id_cond, hidden, "sum")
    with pytest.raises(AssertionError):
        person_tokens(encoder, id_cond, [state[:1] for state in hidden])
    with pytest.raises(AssertionError, match="4"):
        person_tokens(encoder, id_cond, hidden[:4])


class TestIdentity:
    """PuLID's tokens in the type that all systems share."""

    @pytest.fixture
    def identity(self, tiny_pulid, photos):
        def make(edition, k=1, seed=1, label="", adapter="f" * 64):
            tokens = person_tokens(tiny_pulid(edition).encoder, *photos(k, seed))
            return Identity(edition, adapter, tokens, label)

        return make

    @pytest.mark.parametrize("edition", EDITIONS)
    @pytest.mark.parametrize("k", [1, 3])
    def test_it_is_saved_and_loaded(self, identity, tmp_path, edition, k):
        person = identity(edition, k, label="Ann")
        save_identity(person, tmp_path / "ann.safetensors")
        assert load_identity(tmp_path / "ann.safetensors") == person

    @pytest.mark.parametrize("edition", EDITIONS)
    def test_mixing_blends_token_by_token(self, identity, edition):
        main, other = identity(edition, 2, seed=1), identity(edition, 2, seed=2)
        mixed = mix_identities(main, [(other, 0.25)])
        torch.testing.assert_close(mixed.tokens["cond"], 0.75 * main.tokens["cond"] + 0.25 * other.tokens["cond"])
        assert torch.equal(mixed.tokens["uncond"], main.tokens["uncond"])
        assert mixed.system == edition

    def test_keys_and_values_of_a_mixture_are_the_mixture_of_keys_and_values(self, tiny_pulid, identity):
        projection = tiny_pulid("pulid-v1").projections["9"]
        main, other = identity("pulid-v1", seed=1), identity("pulid-v1", seed=2)
        mixed = projection(mix_identities(main, [(other, 0.3)]).tokens["cond"])
        for left, one, two in zip(
            mixed, projection(main.tokens["cond"]), projection(other.tokens["cond"]), strict=True
        ):
            torch.testing.assert_close(left, 0.7 * one + 0.3 * two, atol=1e-5, rtol=1e-5)

    def test_v1_with_other_numbers_of_photos_says_what_to_do(self, identity):
        with pytest.raises(ValueError, match=r"\(10, 20\) and \(15, 20\)\. Encode both from equally many photos"):
            mix_identities(identity("pulid-v1", 1), [(identity("pulid-v1", 2), 0.5)])
        mix_identities(identity("pulid-flux", 1), [(identity("pulid-flux", 2), 0.5)])

    def test_editions_do_not_mix(self, identity):
        main = identity("pulid-v1", label="Ann")
        for system in ("pulid-v1.1", "pulid-flux"):
            with pytest.raises(ValueError, match=f"one was encoded by pulid-v1, the other by {system}"):
                mix_identities(main, [(identity(system, label="Bo"), 0.5)])
        with pytest.raises(ValueError, match="different pulid-v1 weights"):
            mix_identities(main, [(identity("pulid-v1", adapter="0" * 64), 0.5)])


@pytest.mark.parametrize("edition", EDITIONS)
def test_noise_changes_nobody_only_and_can_be_repeated(tiny_pulid, photos, edition):
    encoder, (id_cond, hidden) = tiny_pulid(edition).encoder, photos(2)
    without = person_tokens(encoder, id_cond, hidden)
    first, again, other = (person_tokens(encoder, id_cond, hidden, noise=0.5, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first["cond"], without["cond"])
    assert torch.equal(first["uncond"], again["uncond"])
    assert (first["uncond"] - without["uncond"]).abs().max() > 1e-3
    assert (first["uncond"] - other["uncond"]).abs().max() > 1e-3
    assert first["uncond"].shape == without["uncond"].shape


def test_noise_is_uniform_from_nothing_to_its_strength(tiny_pulid, photos):
    encoder, calls = tiny_pulid("pulid-flux").encoder, []
    encoder.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    person_tokens(encoder, *photos(1), noise=-0.4)
    drawn = torch.cat([calls[0][0].flatten(), *(state.flatten() for state in calls[0][1])])
    assert -0.4 <= drawn.min() < -0.38 and -0.02 < drawn.max() <= 0
