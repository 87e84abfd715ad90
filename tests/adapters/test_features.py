"""From the image networks' outputs to the resampler's input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from likeness.adapters.features import (
    CLIP_MEAN,
    CLIP_STD,
    clip_pixels,
    intrinsic_features,
    recognition_input,
    structure_features,
    unconditional_features,
)


@pytest.fixture
def taps():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 56, 56), (2, 4, 28, 28), (2, 5, 14, 14), (2, 6, 7, 7)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_mean_colour_is_zero_for_clip():
    mean = torch.tensor(CLIP_MEAN)[None, :, None, None].expand(1, 3, 224, 224)
    assert clip_pixels(mean).abs().max() < 1e-6
    std = torch.tensor(CLIP_STD)[None, :, None, None]
    torch.testing.assert_close(clip_pixels(mean + std), torch.ones(1, 3, 224, 224))


def test_recognition_input_averages_two_by_two():
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool2d(pixels, 2) * 2.0 - 1.0
    torch.testing.assert_close(recognition_input(clip_pixels(pixels)), expected, atol=1e-5, rtol=0)


def test_recognition_input_is_clamped():
    """Bicubic resizing before it may overshoot."""
    pixels = torch.full((1, 3, 224, 224), 1.25)
    assert recognition_input(clip_pixels(pixels)).max() == 1.0
    assert recognition_input(clip_pixels(-pixels)).min() == -1.0


def test_tokens_are_row_major_and_channels_in_order(taps):
    hidden = torch.randn(2, 256, 9)
    structure = structure_features(taps, hidden)
    assert structure.shape == (1, 512, 3 + 4 + 5 + 9)
    row, column = 3, 11  # of the second reference
    token = structure[0, 256 + 16 * row + column]
    for tap, channels in zip(taps[:3], ((0, 3), (3, 7), (7, 12)), strict=True):
        resized = F.interpolate(tap, size=(16, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(token[slice(*channels)], resized[1, :, row, column])
    assert torch.equal(token[12:], hidden[1, 16 * row + column])
    intrinsic = intrinsic_features(taps)
    assert intrinsic.shape == (1, 98, 6)
    assert torch.equal(intrinsic[0, 49 + 7 * 2 + 5], taps[3][1, :, 2, 5])


def test_nobody_is_one_reference_long(taps):
    hidden = torch.randn(1, 256, 9)
    intrinsic, structure = unconditional_features(taps, hidden)
    assert torch.equal(intrinsic, torch.zeros(1, 49, 6))
    assert torch.equal(structure, torch.cat([torch.zeros(1, 256, 12), hidden], dim=-1))
