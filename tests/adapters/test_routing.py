"""The ID router and the three ways to turn its logits into weights."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.routing import IDRouter, gumbel_noise, hard_routing, soft_routing, straight_through_routing
from torch import nn


@pytest.fixture
def router():
    torch.manual_seed(1)
    return IDRouter(6, 10, 4).double()


@pytest.fixture
def positions():
    return torch.randn(2, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def tokens():
    return torch.randn(2, 3, 4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def published_logits(router, x, tokens):
    aggregated = torch.einsum("t,bntd->bnd", router.aggr_router.weight[0], tokens) + router.aggr_router.bias
    return router.to_q_router(x) @ router.to_k_router(aggregated).transpose(-1, -2)


def test_folded_logits_are_the_published_ones(router, positions, tokens):
    keys = router.keys(tokens)
    assert keys.shape == (2, 3, 12)
    torch.testing.assert_close(
        router.logits(positions, keys), published_logits(router, positions, tokens), rtol=1e-12, atol=1e-12
    )


def test_folding_has_the_published_gradients(router, positions, tokens):
    weights = list(router.parameters())
    folded = torch.autograd.grad(router.logits(positions, router.keys(tokens)).square().sum(), weights)
    published = torch.autograd.grad(published_logits(router, positions, tokens).square().sum(), weights)
    for (name, _), ours, theirs in zip(router.named_parameters(), folded, published, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=name)


def test_one_row_of_keys_serves_every_batch_row(router, positions, tokens):
    keys = router.keys(tokens[:1])
    torch.testing.assert_close(router.logits(positions, keys), router.logits(positions, keys.expand(2, -1, -1)))


def test_permuting_identities_permutes_logits(router, positions, tokens):
    order = [2, 0, 1]
    torch.testing.assert_close(
        router.logits(positions, router.keys(tokens[:, order])),
        router.logits(positions, router.keys(tokens))[..., order],
    )


def test_weights_of_another_dtype_are_cast_where_the_host_casts(router, positions, tokens):
    """ComfyUI's layers keep float16 weights and cast at forward; W2 is read without its forward."""

    class CastingLinear(nn.Linear):
        def forward(self, x):
            bias = None if self.bias is None else self.bias.to(x)
            return nn.functional.linear(x, self.weight.to(x), bias)

    class Operations:
        Linear = CastingLinear

    half = IDRouter(6, 10, 4, Operations).half()
    half.load_state_dict(router.state_dict())
    exact = router.half().double()
    logits = half.logits(positions.float(), half.keys(tokens.float()))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact.logits(positions, exact.keys(tokens)), rtol=1e-4, atol=1e-4)


def test_hard_routing_takes_the_first_of_equal_logits():
    logits = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, 1.0, 5.0]]])
    expected = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]])
    assert torch.equal(hard_routing(logits), expected)


@pytest.mark.parametrize("route", [hard_routing, soft_routing, straight_through_routing])
def test_padding_is_never_chosen_and_has_no_weight(route):
    logits = torch.tensor([[[5.0, 1.0, 9.0]] * 4, [[5.0, 1.0, 9.0]] * 4, [[5.0, 1.0, 9.0]] * 4], requires_grad=True)
    valid = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    weights = route(logits, valid=valid)
    assert (weights[~valid[:, None].expand_as(weights)] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.tensor([[1.0] * 4, [1.0] * 4, [0.0] * 4]))
    if route is not hard_routing:
        (gradient,) = torch.autograd.grad((weights * torch.arange(3.0)).sum(), logits)
        assert torch.isfinite(gradient).all()
        assert (gradient[~valid[:, None].expand_as(gradient)] == 0).all()


def test_padding_does_not_change_the_others():
    logits = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([logits, torch.full((2, 5, 1), 100.0)], dim=-1)
    valid = torch.tensor([[True, True, False]] * 2)
    assert torch.equal(hard_routing(padded, valid)[..., :2], hard_routing(logits))
    torch.testing.assert_close(soft_routing(padded, valid)[..., :2], soft_routing(logits))


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_straight_through_is_hard_forward_and_soft_backward(tau):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 7, 3, generator=generator, requires_grad=True)
    noise = gumbel_noise(logits, generator)
    upstream = torch.randn(2, 7, 3, generator=generator)
    weights = straight_through_routing(logits, tau, noise)
    assert torch.equal(weights, hard_routing(logits.detach() + noise))
    (ours,) = torch.autograd.grad((weights * upstream).sum(), logits)
    (softmax,) = torch.autograd.grad((((logits + noise) / tau).softmax(-1) * upstream).sum(), logits)
    assert softmax.abs().max() > 0.01
    torch.testing.assert_close(ours, softmax)


def test_noise_comes_from_the_generator():
    logits = torch.zeros(1, 50, 4)
    first = straight_through_routing(logits, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first, straight_through_routing(logits, generator=torch.Generator().manual_seed(7)))
    assert not torch.equal(first, straight_through_routing(logits, generator=torch.Generator().manual_seed(8)))


def test_gumbel_choices_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 40_000, 3)
    chosen = straight_through_routing(logits, generator=torch.Generator().manual_seed(0)).mean(1)[0]
    torch.testing.assert_close(chosen, logits[0, 0].softmax(-1), atol=0.01, rtol=0)
