"""PuLID's blocks for FLUX: folding is exact, people and masks, rows, precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from likeness.adapters.attention import merge_heads, split_heads
from likeness.adapters.flux_attention import (
    FluxAttentionSizes,
    FluxCrossAttention,
    FoldedTokens,
    folded_logits,
    folded_output,
    folded_shares,
)
from likeness.adapters.routing import hard_routing


@pytest.fixture
def block():
    torch.manual_seed(0)
    block = FluxCrossAttention(FluxAttentionSizes(24, 20, 3, 8)).double().requires_grad_(False)
    for norm in (block.norm1, block.norm2):  # not the identity that they are made as
        norm.weight.normal_(1.0, 0.3)
        norm.bias.normal_(0.0, 0.3)
    return block


@pytest.fixture
def tokens():
    return torch.randn(2, 3, 6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def x():
    return 3 * torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1


def as_published(block, tokens, x):
    """The block without folding, for one person: tokens (B, m, D), x (B, n, X)."""
    q = split_heads(block.to_q(block.norm2(x)), block.heads)
    k, v = (split_heads(part, block.heads) for part in block.to_kv(block.norm1(tokens)).chunk(2, dim=-1))
    return block.to_out(merge_heads(F.scaled_dot_product_attention(q, k, v)))


def term(block, tokens, x, weights=None):
    folded = block.fold(tokens)
    return folded_output(folded_logits(x, folded), folded, weights)


def test_folding_is_exact(block, tokens, x):
    torch.testing.assert_close(term(block, tokens[:, :1], x), as_published(block, tokens[:, 0], x))
    folded = block.fold(tokens)
    assert folded.keys.shape == folded.values.shape == (2, 3, 3, 6, 24)
    assert folded.biases.shape == (2, 3, 3, 6)


def test_logits_are_scaled(block, tokens, x):
    q = split_heads(block.to_q(block.norm2(x)), block.heads)
    k = split_heads(block.to_kv(block.norm1(tokens[:, 1])).chunk(2, dim=-1)[0], block.heads)
    logits = folded_logits(x, block.fold(tokens))[:, :, 1].transpose(1, 2)
    torch.testing.assert_close(logits, q @ k.transpose(-1, -2) / 8**0.5)


def test_people_add_up_by_weight(block, tokens, x):
    weights = torch.rand(2, 7, 3, dtype=torch.float64)
    expected = sum(weights[..., k : k + 1] * as_published(block, tokens[:, k], x) for k in range(3))
    torch.testing.assert_close(term(block, tokens, x, weights), expected)
    order = [2, 0, 1]
    torch.testing.assert_close(term(block, tokens[:, order], x, weights[..., order]), expected)


def test_complementary_masks_add_up(block, tokens, x):
    mask = torch.rand(1, 7, 1, dtype=torch.float64)
    one = tokens[:, :1]
    torch.testing.assert_close(term(block, one, x, mask) + term(block, one, x, 1 - mask), term(block, one, x))


def test_masks(block, tokens, x):
    masks = torch.zeros(1, 7, 2, dtype=torch.float64)
    masks[:, :3, 0], masks[:, 3:6, 1] = 1.0, 1.0
    added = term(block, tokens[:, :2], x, masks)
    assert not added[:, 6:].any()
    other = term(block, tokens[:, [0, 2]], x, masks)
    assert torch.equal(added[:, :3], other[:, :3])
    assert not torch.equal(added[:, 3:6], other[:, 3:6])
    ones = torch.ones(1, 1, 1, dtype=torch.float64)
    assert torch.equal(term(block, tokens[:, :1], x, ones), term(block, tokens[:, :1], x))


def test_one_row_of_tokens_serves_every_batch_row(block, tokens, x):
    weights = torch.rand(1, 7, 3, dtype=torch.float64)
    shared = term(block, tokens[:1], x, weights)
    torch.testing.assert_close(shared, term(block, tokens[:1].expand(2, -1, -1, -1), x, weights))
    torch.testing.assert_close(shared[:1], term(block, tokens, x, weights)[:1])


def test_wrong_counts_are_refused(block, tokens, x):
    with pytest.raises(AssertionError, match="tokens of 2 rows for a batch of 1"):
        term(block, tokens, x[:1], torch.ones(1, 1, 3))
    with pytest.raises(AssertionError, match="3 people need weights"):
        term(block, tokens, x)
    with pytest.raises(AssertionError, match="2"):
        term(block, tokens, x, torch.ones(1, 7, 2))


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_half_precision(block, tokens, x, dtype, allowed):
    exact = term(block, tokens, x, torch.ones(1, 1, 3))
    folded = block.fold(tokens).to("cpu", dtype)
    assert all(part.dtype == dtype for part in folded)
    added = folded_output(folded_logits(x.to(dtype), folded), folded, torch.ones(1, 1, 3))
    assert added.dtype == dtype
    assert (added.double() - exact).abs().mean() / exact.abs().mean() < allowed


def test_the_blocks_weights_are_not_needed_after_folding(block, tokens, x):
    expected, folded = term(block, tokens[:, :1], x), block.fold(tokens[:, :1])
    for parameter in block.parameters():
        parameter.fill_(float("nan"))
    assert torch.equal(folded_output(folded_logits(x, folded), folded, None), expected)


def test_shares(block, tokens, x):
    folded = block.fold(tokens)
    shares = folded_shares(folded_logits(x, folded))
    assert shares.shape == (2, 7, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 7, dtype=torch.float64))
    assert hard_routing(shares).sum(-1).eq(1).all()
    twice = block.fold(tokens[:, [0, 0]])
    logits = folded_logits(x, twice)
    same = folded_output(logits, twice, folded_shares(logits))
    torch.testing.assert_close(same, term(block, tokens[:, :1], x))


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    block = FluxCrossAttention(FluxAttentionSizes(24, 20, 3, 8))
    added = term(block, torch.randn(2, 1, 6, 20), torch.randn(2, 7, 24))
    (added * torch.randn_like(added)).sum().backward()
    assert [name for name, value in block.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_folded_tokens_move_together(block, tokens):
    assert isinstance(block.fold(tokens).to("meta", torch.float32), FoldedTokens)
    assert all(part.device.type == "meta" for part in block.fold(tokens).to("meta", torch.float32))
