"""Losses and gradients against closed forms (docs/uniportrait.md, section 11)."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.inversion import scaled_linear_alphas
from likeness.adapters.routing import gumbel_of_exponential, straight_through_routing
from likeness.trainer.model.losses import (
    diffusion_loss,
    noisy_latents,
    prediction_target,
    routing_loss,
    routing_targets,
)
from likeness.trainer.model.settings import RoutingSettings

DEFAULT = RoutingSettings()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def boxes(size, *corners):
    """One sample's masks (1, N, H, W) from (y1, x1, y2, x2)."""
    masks = torch.zeros(1, len(corners), *size, dtype=torch.bool)
    for number, (top, left, bottom, right) in enumerate(corners):
        masks[0, number, top:bottom, left:right] = True
    return masks


def test_noise_and_velocity_are_one_rotation():
    latents, noise = random(3, 4, 2, 5), random(3, 4, 2, 5, seed=1)
    alphas = torch.tensor([0.9, 0.5, 0.01])
    noisy = noisy_latents(latents, noise, alphas)
    velocity = prediction_target(latents, noise, alphas, "v_prediction")
    root, rest = alphas.sqrt()[:, None, None, None], (1 - alphas).sqrt()[:, None, None, None]
    torch.testing.assert_close(root * noisy - rest * velocity, latents)
    torch.testing.assert_close(rest * noisy + root * velocity, noise)
    assert prediction_target(latents, noise, alphas, "epsilon") is noise


def test_the_diffusion_loss_is_the_mean_over_elements():
    predicted, target = random(2, 4, 3, 3).requires_grad_(), random(2, 4, 3, 3, seed=1)
    loss = diffusion_loss(predicted, target, torch.tensor([0.5, 0.5]), "epsilon", None)
    assert loss.shape == (2,)
    torch.testing.assert_close(loss[1], ((predicted[1] - target[1]) ** 2).sum() / 36)
    loss.mean().backward()
    torch.testing.assert_close(predicted.grad, 2 * (predicted.detach() - target) / (2 * 36))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_is_a_bounded_weight_on_the_clean_latent(kind):
    """For one error of z₀ both kinds of prediction give min(SNR, γ) times its square."""
    alphas = scaled_linear_alphas()[[10, 300, 600, 990]].float()
    latents, noise = random(4, 1, 2, 2), random(4, 1, 2, 2, seed=1)
    wrong = latents + 0.01
    noisy = noisy_latents(latents, noise, alphas)
    a = alphas[:, None, None, None]
    guess = (noisy - a.sqrt() * wrong) / (1 - a).sqrt()  # ε that would lead to the wrong z₀
    predicted = guess if kind == "epsilon" else (a.sqrt() * noisy - wrong) / (1 - a).sqrt()
    target = prediction_target(latents, noise, alphas, kind)
    snr = alphas / (1 - alphas)
    loss = diffusion_loss(predicted, target, alphas, kind, 5.0)
    torch.testing.assert_close(loss, snr.clamp(max=5.0) * 1e-4, rtol=2e-3, atol=1e-9)


def test_targets_keep_what_is_mostly_covered():
    masks = boxes((16, 16), (0, 0, 8, 8), (4, 10, 16, 16))
    targets = routing_targets(masks, (4, 4), DEFAULT)[0]
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[:2, :2] = 1
    second[1:, 3] = 1  # column 2 is covered by half, which is not more than half
    assert torch.equal(targets, torch.stack([first, second]))
    lower = RoutingSettings(mask_threshold=0.4)
    assert routing_targets(masks, (4, 4), lower)[0, 1, 1:, 2].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("box", "cell"),
    [((5, 9, 6, 10), (1, 2)), ((0, 0, 1, 1), (0, 0)), ((15, 15, 16, 16), (3, 3)), ((6, 2, 8, 5), (1, 0))],
)
def test_a_face_smaller_than_a_position_keeps_its_centre(box, cell):
    targets = routing_targets(boxes((16, 16), box), (4, 4), DEFAULT)[0, 0]
    assert targets.nonzero().tolist() == [list(cell)]


def test_a_face_that_is_not_in_the_picture_has_no_target():
    targets = routing_targets(boxes((16, 8), (0, 0, 8, 8), (0, 0, 0, 0)), (4, 2), DEFAULT)
    assert targets[0, 1].sum() == 0 and targets[0, 0].sum() == 4


def test_overlaps_are_shared_or_the_smaller_ones():
    masks = boxes((8, 8), (0, 0, 8, 6), (0, 4, 4, 8))
    shared = routing_targets(masks, (4, 4), DEFAULT)[0]
    assert shared[:, 0, 2].tolist() == [0.5, 0.5] and shared[:, 3, 2].tolist() == [1.0, 0.0]
    smaller = routing_targets(masks, (4, 4), RoutingSettings(overlap="smaller"))[0]
    assert smaller[:, 0, 2].tolist() == [0.0, 1.0] and smaller[:, 3, 2].tolist() == [1.0, 0.0]
    assert smaller[:, 0, 3].tolist() == [0.0, 1.0] and smaller[:, 3, 3].tolist() == [0.0, 0.0]


def by_hand(logits, masks, settings, size):
    """The formula for one sample, written as sums."""
    targets = routing_targets(masks, size, settings)[0].double()
    total, area = 0.0, 0.0
    count = masks.shape[1]
    for row in range(size[0]):
        for column in range(size[1]):
            weights = logits[0, row * size[1] + column].double().exp()
            psi = weights / weights.sum()
            if targets[:, row, column].sum() > 0:
                area += 1.0
                for k in range(count):
                    total += float((psi[k] - targets[k, row, column]) ** 2)
    return settings.loss_weight * total / (count * (max(area, 1.0) if settings.normalisation == "mean" else 1.0))


@pytest.mark.parametrize(
    "settings", [DEFAULT, RoutingSettings(normalisation="sum", loss_weight=2.0, overlap="smaller")]
)
def test_the_routing_loss_is_the_formula(settings):
    masks = boxes((16, 8), (0, 0, 9, 5), (6, 3, 16, 8), (0, 6, 2, 8))
    layers = {1: (8, 4), 5: (4, 2), 31: (1, 1)}
    logits = {number: 3 * random(1, h * w, 3, seed=number) for number, (h, w) in layers.items()}
    loss = routing_loss(logits, masks, torch.ones(1, 3, dtype=torch.bool), layers, settings)
    expected = sum(by_hand(logits[n], masks, settings, size) for n, size in layers.items()) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_routing_gradient_is_the_softmaxs_and_lies_on_faces_only():
    masks, size = boxes((8, 8), (0, 0, 4, 4), (4, 4, 8, 8)), (4, 4)
    logits = random(1, 16, 2).requires_grad_()
    routing_loss({1: logits}, masks, torch.ones(1, 2, dtype=torch.bool), {1: size}, DEFAULT).sum().backward()
    psi = logits.detach().softmax(-1)
    targets = routing_targets(masks, size, DEFAULT).flatten(2).transpose(1, 2)
    error = psi - targets
    slope = 2 * psi * (error - (psi * error).sum(-1, keepdim=True))  # dΣ(ψ-M)²/d logits
    inside = (targets.sum(-1) > 0).float()[..., None]
    torch.testing.assert_close(logits.grad, 0.1 * inside * slope / (2 * 8))
    assert (logits.grad[0, 3] == 0).all() and (logits.grad[0, 0] != 0).all()


def test_padding_and_perfect_routing():
    masks, layers = boxes((8, 8), (0, 0, 4, 8), (4, 0, 8, 8)), {1: (4, 4)}
    logits = random(1, 16, 2)
    valid = torch.ones(1, 2, dtype=torch.bool)
    alone = routing_loss({1: logits}, masks, valid, layers, DEFAULT)
    padded_masks = torch.cat([masks, torch.ones(1, 1, 8, 8, dtype=torch.bool)], 1)
    padded_logits = torch.cat([logits, torch.full((1, 16, 1), 50.0)], -1).requires_grad_()
    padded = routing_loss({1: padded_logits}, padded_masks, torch.tensor([[True, True, False]]), layers, DEFAULT)
    torch.testing.assert_close(padded, alone)
    padded.sum().backward()
    assert (padded_logits.grad[..., 2] == 0).all()
    right = 40.0 * routing_targets(masks, (4, 4), DEFAULT).flatten(2).transpose(1, 2)
    assert routing_loss({1: right}, masks, valid, layers, DEFAULT).item() < 1e-12


def test_gumbel_routing_is_one_hot_and_its_expected_gradient_is_that_of_the_relaxed_sample():
    """With y = softmax((l + G)/τ): forward E[a] = softmax(l) (the Gumbel-max trick); backward the gradient of a·c is
    E[Jᵀc] with J the softmax's Jacobian at the noisy logits. For two identities G₁-G₂ is logistic, so that this
    expectation is an integral over one number.
    """
    logits = torch.tensor([0.4, -0.7])
    cost, tau, count = torch.tensor([1.0, -0.5]), 0.7, 400_000
    noise = gumbel_of_exponential(torch.empty(1, count, 2).exponential_(generator=torch.Generator().manual_seed(0)))
    drawn = logits.expand(1, count, 2).clone().requires_grad_()
    hard = straight_through_routing(drawn, tau, noise)
    assert set(hard.detach().unique().tolist()) == {0.0, 1.0} and (hard.sum(-1) == 1).all()
    torch.testing.assert_close(hard.detach()[0].mean(0), logits.softmax(-1), atol=3e-3, rtol=0)
    (hard * cost).sum().backward()
    difference = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    density = torch.sigmoid(difference) * torch.sigmoid(-difference)
    y = torch.sigmoid((logits[0] - logits[1] + difference) / tau)
    slope = torch.trapezoid(density * y * (1 - y) / tau, difference) * (cost[0] - cost[1])
    torch.testing.assert_close(drawn.grad[0].mean(0).double(), torch.stack([slope, -slope]), atol=2e-3, rtol=0)
