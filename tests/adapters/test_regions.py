"""Masks as identity weights."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.regions import image_prompt_weights, region_weights


def test_constant_mask_counts_fully():
    assert torch.equal(region_weights(torch.full((1, 32, 32), 0.25), (4, 4)), torch.ones(1, 16, 1))


def test_rows_come_first_and_outside_is_nobody():
    masks = torch.zeros(2, 16, 32)
    masks[0, :, :16] = 1.0  # left half
    masks[1, 8:, 16:] = 1.0  # lower right quarter
    grid = region_weights(masks, (2, 4)).view(2, 4, 2)
    assert torch.equal(grid[..., 0], torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]))
    assert torch.equal(grid[..., 1], torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 1]]))


def test_overlap_is_shared_by_weight():
    masks = torch.stack([torch.full((8, 8), 0.75), torch.full((8, 8), 0.25)])
    torch.testing.assert_close(region_weights(masks, (2, 2)), torch.tensor([0.75, 0.25]).expand(1, 4, 2))
    torch.testing.assert_close(region_weights(4 * masks, (2, 2)), torch.tensor([0.75, 0.25]).expand(1, 4, 2))


@pytest.mark.parametrize("keep", [False, True])
def test_soft_edges_stay_only_where_asked(keep):
    masks = torch.stack([torch.full((8, 8), 0.3), torch.zeros(8, 8)])
    weight = region_weights(masks, (2, 2), keep_soft_edges=keep)
    torch.testing.assert_close(weight, torch.tensor([0.3 if keep else 1.0, 0.0]).expand(1, 4, 2))
    sums = region_weights(torch.rand(3, 8, 8) + 0.5, (4, 4), keep_soft_edges=keep).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_values_below_a_thousandth_fade():
    weights = region_weights(torch.full((1, 8, 8), 0.0005), (2, 2))
    torch.testing.assert_close(weights, torch.full((1, 4, 1), 0.5))


@pytest.mark.parametrize("size", [(65, 65), (33, 17), (5, 9), (1, 1), (128, 64)])
@pytest.mark.parametrize("resolution", [(520, 520), (64, 64), (513, 771), (3, 2)])
def test_any_mask_fits_any_layer(size, resolution):
    masks = torch.zeros(2, *resolution)
    masks[0, :, : resolution[1] // 2] = 1.0
    masks[1, :, resolution[1] // 2 :] = 1.0
    weights = region_weights(masks, size)
    assert weights.shape == (1, size[0] * size[1], 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, size[0] * size[1]))


def test_eightfold_reduction_samples_the_four_centre_pixels():
    """Bilinear without antialias: what the published code gets from its scale factor."""
    mask = torch.rand(1, 16, 24, generator=torch.Generator().manual_seed(0))
    centre = mask.view(1, 2, 8, 3, 8)[:, :, 3:5, :, 3:5].mean((2, 4))
    both = torch.cat([mask, 1.0 - mask])  # sums to one everywhere, so that nothing is divided
    torch.testing.assert_close(region_weights(both, (2, 3))[0, :, 0], centre.flatten())


def test_permuting_masks_permutes_weights():
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    order = [2, 0, 1]
    torch.testing.assert_close(region_weights(masks[order], (5, 5)), region_weights(masks, (5, 5))[..., order])


def test_image_prompt_mask_takes_the_nearest_pixel():
    mask = torch.rand(6, 8)
    assert torch.equal(image_prompt_weights(mask, (3, 4)), mask[::2, ::2].reshape(1, 12, 1))
