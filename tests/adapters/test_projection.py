"""The identity term: each identity's own attention, summed by weight."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.attention import torch_attention
from likeness.adapters.projection import KeysValues, TokenProjection, identity_attention


@pytest.fixture
def case():
    torch.manual_seed(0)
    projection = TokenProjection(8, 6).double()
    kv = projection(torch.randn(2, 3, 4, 6, dtype=torch.float64))
    q = torch.randn(2, 5, 8, dtype=torch.float64)
    weights = torch.rand(2, 5, 3, dtype=torch.float64)
    return q, kv, weights


def test_projection_keeps_identities_apart(case):
    _, kv, _ = case
    assert kv.keys.shape == kv.values.shape == (2, 3, 4, 8)
    assert {name for name, _ in TokenProjection(8, 6).named_parameters()} == {"to_k.weight", "to_v.weight"}


def test_term_is_the_weighted_sum_of_separate_attentions(case):
    q, kv, weights = case
    heads, expected = 2, torch.zeros_like(q)
    for row in range(2):
        for position in range(5):
            for number in range(3):
                for head in (slice(0, 4), slice(4, 8)):
                    logits = kv.keys[row, number, :, head] @ q[row, position, head] / 2.0
                    attended = logits.softmax(0) @ kv.values[row, number, :, head]
                    expected[row, position, head] += weights[row, position, number] * attended
    torch.testing.assert_close(identity_attention(q, kv, weights, heads), expected)


def test_no_weights_are_weights_of_one(case):
    q, kv, _ = case
    one = KeysValues(kv.keys[:, :1], kv.values[:, :1])
    with_ones = identity_attention(q, one, torch.ones(1, 5, 1, dtype=q.dtype), 2)
    assert torch.equal(identity_attention(q, one, None, 2), with_ones)


def test_permuting_identities_with_their_weights_changes_nothing(case):
    q, kv, weights = case
    order = [1, 2, 0]
    permuted = KeysValues(kv.keys[:, order], kv.values[:, order])
    torch.testing.assert_close(
        identity_attention(q, permuted, weights[..., order], 2), identity_attention(q, kv, weights, 2)
    )


def test_one_row_of_tokens_serves_every_batch_row(case):
    q, kv, weights = case
    shared = KeysValues(kv.keys[:1], kv.values[:1])
    expanded = KeysValues(kv.keys[:1].expand(2, -1, -1, -1), kv.values[:1].expand(2, -1, -1, -1))
    assert torch.equal(identity_attention(q, shared, weights[:1], 2), identity_attention(q, expanded, weights[:1], 2))


def test_equal_identities_count_as_one_with_the_summed_weight(case):
    """What a host may use for the negative half, where every identity has the same tokens."""
    q, kv, weights = case
    one = KeysValues(kv.keys[:, :1], kv.values[:, :1])
    three = KeysValues(kv.keys[:, :1].expand(-1, 3, -1, -1), kv.values[:, :1].expand(-1, 3, -1, -1))
    torch.testing.assert_close(
        identity_attention(q, three, weights, 2), identity_attention(q, one, weights.sum(-1, keepdim=True), 2)
    )


def test_the_hosts_attention_is_called_once_per_identity(case):
    q, kv, weights = case
    calls = []

    def attention(q, k, v, heads):
        calls.append((q.shape, k.shape, v.shape, heads))
        return 2 * torch_attention(q, k, v, heads)

    doubled = identity_attention(q, kv, weights, 2, attention)
    assert calls == [((2, 5, 8), (2, 4, 8), (2, 4, 8), 2)] * 3
    torch.testing.assert_close(doubled, 2 * identity_attention(q, kv, weights, 2))


def test_result_has_the_dtype_of_the_queries(case):
    q, kv, weights = case
    assert identity_attention(q.half(), kv, weights, 2).dtype == torch.float16


def test_several_identities_need_weights(case):
    q, kv, weights = case
    with pytest.raises(AssertionError, match="3 people need weights"):
        identity_attention(q, kv, None, 2)
    with pytest.raises(AssertionError, match="2"):
        identity_attention(q, kv, weights[..., :2], 2)
