"""The ID resampler's switches: structure scale, token masks, several references, precision."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.resampler import IDResampler, ResamplerSizes


@pytest.fixture
def resampler():
    torch.manual_seed(0)
    return IDResampler(ResamplerSizes(6, 10, 16, 3, 2, 8, 5, 12, 2)).requires_grad_(False)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 7, 6, generator=generator), torch.randn(3, 9, 10, generator=generator)


def test_scale_zero_leaves_the_structure_out(resampler, features):
    intrinsic, structure = features
    without = resampler(intrinsic, structure, 0.0)
    assert without.shape == (3, 5, 12)
    assert torch.equal(without, resampler(intrinsic, torch.full_like(structure, float("nan")), 0.0))
    torch.testing.assert_close(without, resampler(intrinsic, structure, torch.zeros(3, 1, 1)))
    assert (without - resampler(intrinsic, structure, 0.3)).abs().max() > 0.01


def test_scale_may_differ_by_sample(resampler, features):
    scales = torch.tensor([0.0, 0.4, 1.0])
    together = resampler(*features, scales[:, None, None])
    for row, scale in enumerate(scales.tolist()):
        alone = resampler(features[0][row : row + 1], features[1][row : row + 1], scale)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_masked_tokens_are_as_if_absent(resampler, features):
    intrinsic, structure = features
    keep_intrinsic, keep_structure = torch.ones(3, 7, 1), torch.ones(3, 9, 1)
    torch.testing.assert_close(resampler(*features), resampler(*features, 1.0, keep_intrinsic, keep_structure))
    keep_intrinsic[:, 2:4], keep_structure[:, 5:] = 0.0, 0.0
    absent = resampler(intrinsic[:, [0, 1, 4, 5, 6]], structure[:, :5])
    torch.testing.assert_close(resampler(*features, 1.0, keep_intrinsic, keep_structure), absent, atol=1e-5, rtol=1e-5)


def test_masking_all_structure_is_not_scale_zero(resampler, features):
    """The structure branch then still attends to the latents themselves."""
    masked = resampler(*features, 1.0, None, torch.zeros(3, 9, 1))
    assert (masked - resampler(*features, 0.0)).abs().max() > 0.01


def test_order_of_references_does_not_matter(resampler, features):
    first, second = (
        (torch.cat([x[:1], x[1:2]], dim=1) for x in features),
        (torch.cat([x[1:2], x[:1]], dim=1) for x in features),
    )
    torch.testing.assert_close(resampler(*first), resampler(*second), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_half_precision(resampler, features, dtype, allowed):
    exact = resampler(*features, 0.3)
    half = IDResampler(resampler.sizes, dtype=dtype)
    half.load_state_dict(resampler.state_dict())
    tokens = half(*(x.to(dtype) for x in features), 0.3)
    assert tokens.dtype == dtype
    assert (tokens.float() - exact).abs().mean() / exact.abs().mean() < allowed


def test_gradients_reach_every_parameter(features):
    torch.manual_seed(0)
    resampler = IDResampler(ResamplerSizes(6, 10, 16, 2, 2, 8, 5, 12, 2))
    (resampler(*features) * torch.randn(3, 5, 12)).sum().backward()
    idle = [name for name, value in resampler.named_parameters() if value.grad is None or not value.grad.any()]
    assert not idle
