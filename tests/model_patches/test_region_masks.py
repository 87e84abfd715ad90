"""Masks against pictures and layers of every size: nothing is guessed, padded or cut."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

SIZES = range(8, 257)  # latent pixels: 64 to 2048 in the picture


def ceil_halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    for _ in range(times):
        size = -(-size[0] // 2), -(-size[1] // 2)
    return size


def every_shape(count: int) -> list[tuple[int, int]]:
    """`count` heights for every width up to 2048 pixels, from 8:1 to 1:8, both ends among them."""
    draw = random.Random(0)
    shapes = []
    for width in SIZES:
        heights = range(max(SIZES[0], -(-width // 8)), min(SIZES[-1], 8 * width) + 1)
        shapes += [(height, width) for height in {heights[0], heights[-1], *draw.choices(heights, k=count)}]
    return shapes


def test_masks_fit_every_layer_of_every_picture() -> None:
    """Two people who share the picture share each place of each level of a UNet, and of FLUX's tokens."""
    from likeness.model_patches.region_masks import RegionMasks

    place = torch.zeros(1)
    for height, width in every_shape(2):
        left = torch.zeros(1, height, width)
        left[..., : width // 2] = 1.0
        regions = RegionMasks([left, 1.0 - left], 2, keep_soft_edges=False)
        regions.check_aspect((height, width))
        for times in (0, 1, 2, 3):
            size = ceil_halved((height, width), times)
            weights = regions.weights(size, (height, width), None, place, route=lambda _: torch.empty(0))
            assert weights.shape == (1, size[0] * size[1], 2), (height, width, size)
            assert (weights.sum(-1) - 1).abs().max() < 1e-5, (height, width, size)
            grid = weights.view(*size, 2)
            edge = max(1, size[1] // 2 - 1)  # a place on the border may be shared
            assert size[1] < 4 or ((grid[:, :edge, 0] > 0.9).all() and (grid[:, -edge:, 1] > 0.9).all())


@pytest.mark.parametrize("size", [(8, 64), (64, 8), (9, 70), (37, 41), (23, 8)])
@pytest.mark.parametrize("base", ["SDXL", "FLUX"])
def test_the_layers_grids_are_those_of_the_network(
    make_sdxl: Any, make_flux: Any, make_pulid: Any, pulid_people: Any, lab_of_base: Any, base: str, size: Any
) -> None:
    """The maps of a run have the size that halving gives; an addition of another size would raise there."""
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    height, width = size
    models = make_pulid("pulid-v1.1" if base == "SDXL" else "pulid-flux")
    mask = torch.zeros(1, height * 8, width * 8)
    mask[:, : height * 4] = 1.0
    lab, settings = lab_of_base(base), PulidSettings(masks=(mask, 1.0 - mask))
    model, record = apply_pulid(
        make_sdxl() if base == "SDXL" else make_flux(), models, pulid_people(models, [0, 1]), settings
    )
    found = lab.predict(model, noise=lab.noise(size=size))
    assert torch.isfinite(found.positive).all()
    expected = {ceil_halved(size, times) for times in ((1, 2) if base == "SDXL" else (1,))}
    assert {tuple(drawn.shape[-2:]) for drawn in record.maps[0].values()} == expected
