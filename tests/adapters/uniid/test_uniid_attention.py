"""UniID's identity term: the norm that it gets, masks, several people, precision."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.attention import torch_attention
from likeness.adapters.projection import KeysValues, identity_attention
from likeness.adapters.uniid_attention import rescaled, uniid_attention

HEADS = 3


@pytest.fixture
def people(layer):
    """Three people, the second with more tokens; another one in each row."""
    generator = torch.Generator().manual_seed(3)
    return [layer(torch.randn(2, m, 6, dtype=torch.float64, generator=generator)) for m in (5, 8, 5)]


def norms(x):
    return x.flatten(1).norm(dim=1)


def test_a_person_gets_the_norm_of_the_text(q, text_result, people):
    plain = uniid_attention(q, text_result, people[:1], None, HEADS, rescaling=False)
    term = uniid_attention(q, text_result, people[:1], None, HEADS)
    assert torch.equal(plain, torch_attention(q, *people[0], HEADS))
    torch.testing.assert_close(norms(term), norms(text_result))
    torch.testing.assert_close(term, plain * (norms(text_result) / norms(plain))[:, None, None])


def test_the_size_of_the_values_does_not_matter(q, text_result, people):
    keys, values = people[0]
    term = uniid_attention(q, text_result, [people[0]], None, HEADS)
    torch.testing.assert_close(uniid_attention(q, text_result, [KeysValues(keys, 1e3 * values)], None, HEADS), term)


def test_rows_are_on_their_own(q, text_result, people):
    """The order of the guidance halves, and whether they come in one batch, change nothing beyond rounding."""
    term = uniid_attention(q, text_result, people[:1], None, HEADS)
    swapped = KeysValues(*(each.flip(0) for each in people[0]))
    torch.testing.assert_close(uniid_attention(q.flip(0), text_result.flip(0), [swapped], None, HEADS).flip(0), term)
    for row in range(2):
        own = KeysValues(*(each[row : row + 1] for each in people[0]))
        alone = uniid_attention(q[row : row + 1], text_result[row : row + 1], [own], None, HEADS)
        torch.testing.assert_close(alone, term[row : row + 1])


def test_one_persons_tokens_serve_all_rows(q, text_result, people):
    first = KeysValues(*(each[:1] for each in people[0]))
    repeated = KeysValues(*(each.repeat(2, 1, 1) for each in first))
    terms = [uniid_attention(q, text_result, [kv], None, HEADS) for kv in (first, repeated)]
    assert torch.equal(*terms)


def test_a_mask_gets_the_norm_of_the_text_under_it(q, text_result, people):
    """What the region would get if it were the whole picture; and nothing outside."""
    inside = torch.tensor([True, False, False, True, True, False, False])
    mask = inside[None, :, None].double()
    term = uniid_attention(q, text_result, people[:1], mask, HEADS)
    assert not term[:, ~inside].any()
    region = uniid_attention(q[:, inside], text_result[:, inside], people[:1], None, HEADS)
    torch.testing.assert_close(term[:, inside], region)


def test_a_strength_scales_the_term(q, text_result, people):
    term = uniid_attention(q, text_result, people[:1], None, HEADS)
    half = uniid_attention(q, text_result, people[:1], torch.full((1, 1, 1), 0.5), HEADS)
    torch.testing.assert_close(half, 0.5 * term)
    whole = uniid_attention(q, text_result, people[:1], torch.ones(1, 1, 1), HEADS)
    torch.testing.assert_close(whole, term)


@pytest.mark.parametrize("rescaling", [False, True])
def test_people_add_up(q, text_result, people, weights, rescaling):
    together = uniid_attention(q, text_result, people, weights, HEADS, rescaling)
    alone = [
        uniid_attention(q, text_result, [person], weights[..., k : k + 1], HEADS, rescaling)
        for k, person in enumerate(people)
    ]
    torch.testing.assert_close(together, sum(alone))
    order = [2, 0, 1]
    permuted = uniid_attention(q, text_result, [people[k] for k in order], weights[..., order], HEADS, rescaling)
    torch.testing.assert_close(permuted, together)


def test_plain_addition_is_the_other_systems_sum(q, text_result, people, weights):
    equal = [people[0], people[2]]
    stacked = KeysValues(*(torch.stack(each, dim=1) for each in zip(*equal, strict=True)))
    expected = identity_attention(q, stacked, weights[..., :2], HEADS)
    torch.testing.assert_close(uniid_attention(q, text_result, equal, weights[..., :2], HEADS, False), expected)


def test_changing_one_person_leaves_the_others_places(q, text_result, people, weights):
    weights = weights.clone()
    weights[:, :4, 1] = 0
    before = uniid_attention(q, text_result, people, weights, HEADS)
    changed = [people[0], KeysValues(people[1].keys.flip(1), 2 - people[1].values), people[2]]
    after = uniid_attention(q, text_result, changed, weights, HEADS)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_nothing_to_scale_stays_nothing(q, text_result, people, dtype):
    """Zero tokens, an empty mask, and a text whose result is zero: zeros, never NaN."""
    q, text_result, person = q.to(dtype), text_result.to(dtype), KeysValues(*(each.to(dtype) for each in people[0]))
    nothing = KeysValues(person.keys, torch.zeros_like(person.values))
    for term in (
        uniid_attention(q, 1e4 * text_result, [nothing], None, HEADS),
        uniid_attention(q, text_result, [person], torch.zeros(1, 7, 1, dtype=dtype), HEADS),
        uniid_attention(q, torch.zeros_like(text_result), [person], None, HEADS),
    ):
        assert term.dtype == dtype
        assert torch.equal(term, torch.zeros_like(term))


def test_zero_tokens_have_gradients():
    """A fresh adapter that is trained with rescaling, which is an option of the published trainer."""
    term = torch.zeros(1, 4, 6, requires_grad=True)
    rescaled(term, torch.ones(1, 4, 6)).sum().backward()
    assert torch.isfinite(term.grad).all() and term.grad.abs().min() > 0


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_half_precision_with_norms_that_overflow(dtype, allowed):
    """4096 places of 640 channels: the norm of the text is some thousands, and its product with the term no half."""
    generator = torch.Generator().manual_seed(0)
    term, measure = (torch.randn(1, 4096, 640, generator=generator) for _ in range(2))
    exact = rescaled(50 * term.double(), 20 * measure.double())
    got = rescaled((50 * term).to(dtype), (20 * measure).to(dtype))
    assert got.dtype == dtype and torch.isfinite(got).all()
    assert (got - exact).abs().max() <= allowed * exact.abs().max()


def test_several_people_need_weights(q, text_result, people):
    with pytest.raises(AssertionError, match="3 people need weights"):
        uniid_attention(q, text_result, people, None, HEADS)
    with pytest.raises(AssertionError, match="tokens of 2 rows for a batch of 1"):
        uniid_attention(q[:1], text_result[:1], people[:1], None, HEADS)
