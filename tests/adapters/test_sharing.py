"""Shared self-attention of the style mode."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.attention import split_heads, torch_attention
from likeness.adapters.sharing import Sharing, shared_self_attention, without_reference_rows

HEADS = 2


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 5, 8, generator=generator, dtype=torch.float64) for _ in range(3)]


def written_out(q, k, v, sharing, num_chunks):
    """The rule row by row, head by head."""
    out = torch.zeros_like(q)
    rows = q.shape[0] // num_chunks
    for row in range(q.shape[0]):
        reference = row // rows * rows
        for head in range(HEADS):
            own_q, own_k, own_v = (split_heads(x, HEADS)[row, head] for x in (q, k, v))
            ref_q, ref_k, ref_v = (split_heads(x, HEADS)[reference, head] for x in (q, k, v))
            if sharing.adain:
                own_q, own_k = (
                    (own - own.mean(0)) / (own.var(0) + 1e-5).sqrt() * (ref.var(0) + 1e-5).sqrt() + ref.mean(0)
                    for own, ref in ((own_q, ref_q), (own_k, ref_k))
                )
            scale = 1.0 if row == reference else sharing.score_scale
            logits = torch.cat([own_q @ own_k.T, scale * (own_q @ ref_k.T)], 1) / own_q.shape[1] ** 0.5
            logits[:, own_q.shape[0] :] += sharing.score_shift
            out[row, :, head * 4 : head * 4 + 4] = logits.softmax(1) @ torch.cat([own_v, ref_v])
    return out


@pytest.mark.parametrize("num_chunks", [1, 2, 3])
@pytest.mark.parametrize(
    "sharing",
    [Sharing(), Sharing(-0.5), Sharing(0.7, 1.3), Sharing(0.0, 0.5), Sharing(-0.5, 1.2, adain=True)],
    ids=str,
)
def test_rule(qkv, sharing, num_chunks):
    before = [x.clone() for x in qkv]
    torch.testing.assert_close(
        shared_self_attention(*qkv, HEADS, sharing, num_chunks), written_out(*qkv, sharing, num_chunks)
    )
    assert all(torch.equal(x, y) for x, y in zip(qkv, before, strict=True))


def test_reference_rows_stay_as_they_are(qkv):
    shared = shared_self_attention(*qkv, HEADS, Sharing(-0.5, 1.4))
    torch.testing.assert_close(shared[[0, 3]], torch_attention(*qkv, HEADS)[[0, 3]])
    assert (shared - torch_attention(*qkv, HEADS))[[1, 2, 4, 5]].abs().max() > 0.1


def test_a_very_low_shift_is_no_sharing(qkv):
    torch.testing.assert_close(shared_self_attention(*qkv, HEADS, Sharing(-1000.0)), torch_attention(*qkv, HEADS))


def test_half_precision_stays_half(qkv):
    half = [x.half() for x in qkv]
    shared = shared_self_attention(*half, HEADS, Sharing(-0.5, 1.2, adain=True))
    assert shared.dtype == torch.float16
    exact = written_out(*(x.double() for x in half), Sharing(-0.5, 1.2, adain=True), 2)
    assert (shared.double() - exact).abs().max() < 0.02


def test_terms_are_cleared_in_reference_rows_only():
    term = torch.rand(6, 2, 3) + 1.0
    cleared = without_reference_rows(term, 3)
    assert (cleared[[0, 2, 4]] == 0).all()
    assert torch.equal(cleared[[1, 3, 5]], term[[1, 3, 5]])


def test_batch_must_divide():
    with pytest.raises(AssertionError, match="5 rows does not divide into 2"):
        without_reference_rows(torch.zeros(5, 1, 1), 2)
