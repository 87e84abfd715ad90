"""PuLID's identity term: its forms, zero tokens, masks inside the sums, several people, precision."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.attention import split_heads, torch_attention
from likeness.adapters.projection import KeysValues, with_zero_tokens
from likeness.adapters.pulid_attention import FORMS, PRESETS, Injection, global_share, pulid_attention
from likeness.adapters.routing import attention_shares, hard_routing

HEADS = 3
NUM_ZERO = 8


@pytest.fixture
def people(layer):
    """Three people of 10, 15 and 10 tokens, as v1 makes them from one and two photos; another one in each row."""
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randn(2, m, 6, dtype=torch.float64, generator=generator) for m in (10, 15, 10)]
    return [with_zero_tokens(layer(each), NUM_ZERO) for each in tokens]


def test_zero_tokens_are_tokens_projected_from_zeros(layer):
    tokens = torch.randn(2, 10, 6, dtype=torch.float64)
    projected = layer(torch.cat([tokens, torch.zeros(2, 4, 6, dtype=torch.float64)], dim=1))
    padded = with_zero_tokens(layer(tokens), 4)
    assert torch.equal(padded.keys, projected.keys)
    assert torch.equal(padded.values, projected.values)
    assert with_zero_tokens(layer(tokens), 0).keys.shape == (2, 10, 12)


@pytest.mark.parametrize("num_zero", [0, 1, 8, 80])
def test_zero_tokens_have_a_closed_form(layer, q, text_result, num_zero):
    """Z·S/(S + z), S = Σ exp(q·k/√d) over the real tokens, per head and position."""
    kv = layer(torch.randn(2, 10, 6, dtype=torch.float64))
    term = pulid_attention(q, text_result, [with_zero_tokens(kv, num_zero)], None, HEADS, "plain")
    logits = split_heads(q, HEADS) @ split_heads(kv.keys, HEADS).transpose(-1, -2) / 2.0
    sums = logits.exp().sum(-1, keepdim=True)
    plain = split_heads(torch_attention(q, kv.keys, kv.values, HEADS), HEADS)
    torch.testing.assert_close(split_heads(term, HEADS), plain * sums / (sums + num_zero))


def test_forms_position_by_position(q, text_result, people):
    """The published formulas, written with loops."""
    kv = people[1]
    z = torch_attention(q, kv.keys, kv.values, HEADS)
    terms = {form: pulid_attention(q, text_result, [kv], None, HEADS, form) for form in FORMS}
    assert torch.equal(terms["plain"], z)
    for row in range(2):
        for channel in range(12):
            o, column = text_result[row, :, channel], z[row, :, channel]
            along = (o @ column) / (o @ o) * o
            torch.testing.assert_close(terms["ortho"][row, :, channel], column - along)
            for position in range(7):
                share = 0.0
                for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
                    logits = kv.keys[row, :, head] @ q[row, position, head]  # not divided by √d
                    share += logits.softmax(0)[:5].sum().item() / HEADS
                expected = column[position] + (share - 1.0) * along[position]
                torch.testing.assert_close(terms["ortho_v2"][row, position, channel], expected)


def test_global_tokens_are_the_first_five_of_any_number(layer, q):
    few, many = (layer(torch.randn(1, m, 6, dtype=torch.float64)) for m in (5, 40))
    torch.testing.assert_close(global_share(q, few.keys, HEADS), torch.ones(2, 7, 1, dtype=torch.float64))
    share = global_share(q, many.keys, HEADS)
    assert share.shape == (2, 7, 1)
    assert (share > 0).all() and (share < 1).all()


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_one_are_no_weights(q, text_result, people, form):
    ones = torch.ones(1, 7, 1, dtype=torch.float64)
    masked = pulid_attention(q, text_result, people[:1], ones, HEADS, form)
    assert torch.equal(masked, pulid_attention(q, text_result, people[:1], None, HEADS, form))


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_is_as_if_the_rest_of_the_picture_were_absent(q, text_result, people, form):
    """The rule of section 3.4: what lies outside a mask counts neither in the term nor in its sums."""
    mask = torch.zeros(1, 7, 1, dtype=torch.float64)
    mask[:, 2:5] = 1.0
    term = pulid_attention(q, text_result, people[:1], mask, HEADS, form)
    alone = pulid_attention(q[:, 2:5], text_result[:, 2:5], people[:1], None, HEADS, form)
    torch.testing.assert_close(term[:, 2:5], alone)
    assert not term[:, :2].any() and not term[:, 5:].any()


def test_the_added_term_is_orthogonal_to_the_text_under_any_weights(q, text_result, people, weights):
    term = pulid_attention(q, text_result, people, weights, HEADS, "ortho")
    assert term.abs().max() > 0.1
    torch.testing.assert_close((term * text_result).sum(1), torch.zeros(2, 12, dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
def test_people_add_up_and_may_have_different_numbers_of_tokens(q, text_result, people, weights, form):
    together = pulid_attention(q, text_result, people, weights, HEADS, form)
    alone = [
        pulid_attention(q, text_result, [person], weights[..., index : index + 1], HEADS, form)
        for index, person in enumerate(people)
    ]
    torch.testing.assert_close(together, sum(alone))
    order = [2, 0, 1]
    permuted = pulid_attention(q, text_result, [people[i] for i in order], weights[..., order], HEADS, form)
    torch.testing.assert_close(permuted, together)


@pytest.mark.parametrize("form", FORMS)
def test_changing_one_person_leaves_the_others_region_bit_equal(q, text_result, people, form):
    masks = torch.zeros(1, 7, 2, dtype=torch.float64)
    masks[:, :3, 0], masks[:, 3:, 1] = 1.0, 1.0
    one = pulid_attention(q, text_result, [people[0], people[1]], masks, HEADS, form)
    other = pulid_attention(q, text_result, [people[0], people[2]], masks, HEADS, form)
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3:], other[:, 3:])


@pytest.mark.parametrize("form", FORMS)
def test_a_strength_for_each_person_scales_their_part(q, text_result, people, form):
    strengths = torch.tensor([0.5, 2.0], dtype=torch.float64)[None, None]
    term = pulid_attention(q, text_result, people[:2], strengths, HEADS, form)
    alone = [pulid_attention(q, text_result, [person], None, HEADS, form) for person in people[:2]]
    torch.testing.assert_close(term, 0.5 * alone[0] + 2.0 * alone[1])


@pytest.mark.parametrize("form", FORMS)
def test_rows_do_not_see_each_other(q, text_result, people, weights, form):
    together = pulid_attention(q, text_result, people, weights, HEADS, form)
    for row in (slice(0, 1), slice(1, 2)):
        alone = [KeysValues(person.keys[row], person.values[row]) for person in people]
        part = pulid_attention(q[row], text_result[row], alone, weights[row], HEADS, form)
        torch.testing.assert_close(part, together[row])
        shared = pulid_attention(q, text_result, alone, weights[row], HEADS, form)  # one row of tokens for all
        torch.testing.assert_close(shared[row], together[row])


def test_tokens_of_another_number_of_rows_are_refused(q, text_result, people):
    """The published code reads two rows of tokens as one row twice as long, if the batch has one."""
    with pytest.raises(AssertionError, match="tokens of 2 rows for a batch of 1"):
        pulid_attention(q[:1], text_result[:1], people[:1], None, HEADS, "plain")
    with pytest.raises(AssertionError, match="tokens of 2 rows for a batch of 4"):
        pulid_attention(q.repeat(2, 1, 1), text_result.repeat(2, 1, 1), people[:1], None, HEADS, "ortho_v2")


def test_several_people_need_weights(q, text_result, people):
    with pytest.raises(AssertionError, match="3 people need weights"):
        pulid_attention(q, text_result, people, None, HEADS, "plain")
    with pytest.raises(AssertionError, match="2"):
        pulid_attention(q, text_result, people, torch.ones(1, 7, 2), HEADS, "plain")
    with pytest.raises(AssertionError, match="no people"):
        pulid_attention(q, text_result, [], torch.ones(1, 7, 0), HEADS, "plain")


@pytest.mark.parametrize("form", ["ortho", "ortho_v2"])
def test_a_channel_of_zeros_is_no_nan(q, text_result, people, form):
    text_result[..., 3] = 0.0
    term = pulid_attention(q, text_result, people[:1], None, HEADS, form)
    assert torch.isfinite(term).all()
    plain = pulid_attention(q, text_result, people[:1], None, HEADS, "plain")
    assert torch.equal(term[..., 3], plain[..., 3])
    nowhere = pulid_attention(q, text_result, people[:1], torch.zeros(1, 7, 1), HEADS, form)
    assert not nowhere.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision(q, text_result, people, weights, form, dtype, allowed):
    exact = pulid_attention(q, text_result, people, weights, HEADS, form)
    lowered = [KeysValues(*(x.to(dtype) for x in person)) for person in people]
    term = pulid_attention(q.to(dtype), text_result.to(dtype), lowered, weights, HEADS, form)
    assert term.dtype == dtype
    assert (term.double() - exact).abs().mean() / exact.abs().mean() < allowed


def test_large_logits_do_not_overflow(q, text_result, people):
    """Not divided by √d, these logits are beyond float16's range; the published code computes them in it."""
    large = KeysValues((600 * people[0].keys).half(), people[0].values.half())
    hidden = (600 * q).half()
    assert torch.isinf(split_heads(hidden, HEADS) @ split_heads(large.keys, HEADS).transpose(-1, -2)).any()
    assert torch.isfinite(global_share(hidden, large.keys, HEADS)).all()


@pytest.mark.parametrize("form", ["ortho", "ortho_v2"])
def test_large_results_do_not_overflow(q, text_result, people, form):
    """The squares of this text result are beyond float16's range: their sum would be infinite, the projection lost."""
    exact = pulid_attention(q, 300 * text_result, people[:1], None, HEADS, form)
    lowered = KeysValues(*(x.half() for x in people[0]))
    term = pulid_attention(q.half(), (300 * text_result).half(), [lowered], None, HEADS, form)
    assert (term.double() - exact).abs().mean() / exact.abs().mean() < 2e-3


def test_the_hosts_attention_is_called_once_for_each_person(q, text_result, people, weights):
    calls = []

    def attention(q, k, v, heads):
        calls.append((tuple(k.shape), heads))
        return torch_attention(q, k, v, heads)

    pulid_attention(q, text_result, people, weights, HEADS, "ortho_v2", attention)
    assert calls == [((2, 10 + NUM_ZERO, 12), 3), ((2, 15 + NUM_ZERO, 12), 3), ((2, 10 + NUM_ZERO, 12), 3)]


def test_nothing_is_written_in_place(q, text_result, people, weights):
    before = [x.clone() for x in (q, text_result, weights, *(x for person in people for x in person))]
    for form in FORMS:
        pulid_attention(q, text_result, people, weights, HEADS, form)
    after = [q, text_result, weights, *(x for person in people for x in person)]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


class TestShares:
    def test_one_person_has_everything(self, q, people):
        torch.testing.assert_close(
            attention_shares(q, people[:1], HEADS, NUM_ZERO), torch.ones(2, 7, 1, dtype=torch.float64)
        )

    def test_they_sum_to_one_and_follow_the_order(self, q, people):
        shares = attention_shares(q, people, HEADS, NUM_ZERO)
        assert shares.shape == (2, 7, 3)
        assert (shares > 0).all()
        torch.testing.assert_close(shares.sum(-1), torch.ones(2, 7, dtype=torch.float64))
        order = [2, 0, 1]
        torch.testing.assert_close(attention_shares(q, [people[i] for i in order], HEADS, NUM_ZERO), shares[..., order])

    @pytest.mark.parametrize("form", FORMS)
    def test_the_same_person_twice_is_one_person(self, q, text_result, people, form):
        twice = [people[0], people[0]]
        shares = attention_shares(q, twice, HEADS, NUM_ZERO)
        term = pulid_attention(q, text_result, twice, shares, HEADS, form)
        torch.testing.assert_close(term, pulid_attention(q, text_result, people[:1], None, HEADS, form))

    def test_photos_and_zero_tokens_are_no_advantage(self, layer, q):
        """Twice the same tokens, as from the same photo twice, or with zero tokens behind them."""
        tokens = torch.randn(1, 10, 6, dtype=torch.float64)
        once, twice = layer(tokens), layer(torch.cat([tokens, tokens], dim=1))
        shares = attention_shares(q, [once, twice], HEADS)
        torch.testing.assert_close(shares, torch.full_like(shares, 0.5))
        other = layer(torch.randn(1, 12, 6, dtype=torch.float64))
        padded = [with_zero_tokens(kv, 20) for kv in (once, other)]
        torch.testing.assert_close(attention_shares(q, padded, HEADS, 20), attention_shares(q, [once, other], HEADS))

    def test_the_one_who_is_attended_to_wins_the_place(self, q):
        """Two people whose keys point at different positions' queries."""
        people = [KeysValues(q[:, i : i + 1] * 4, q[:, i : i + 1]) for i in (0, 1)]
        chosen = hard_routing(attention_shares(q, people, HEADS))
        assert chosen[:, 0].tolist() == [[1, 0], [1, 0]]
        assert chosen[:, 1].tolist() == [[0, 1], [0, 1]]

    def test_half_precision_is_computed_in_float32(self, q, people):
        lowered = [KeysValues(*(x.half() for x in person)) for person in people]
        shares = attention_shares(q.half(), lowered, HEADS, NUM_ZERO)
        assert shares.dtype == torch.float32
        torch.testing.assert_close(shares.double(), attention_shares(q, people, HEADS, NUM_ZERO), atol=2e-3, rtol=0)


def test_presets_are_the_published_settings():
    assert PRESETS["fidelity"] == Injection("ortho_v2", 8, 0.8)
    assert PRESETS["style"] == Injection("ortho", 16, 0.8)
    assert PRESETS["neutral"] == Injection("plain", 0, 1.0)
    assert PRESETS["v1.1"] == Injection("ortho_v2", 20, 0.8)


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match='the forms plain, ortho, ortho_v2, not "ortho_v3"'):
        Injection("ortho_v3")
    with pytest.raises(ValueError, match="num_zero is -1; it must be 0 or more"):
        Injection(num_zero=-1)
