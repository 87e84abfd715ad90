"""The attention layers of SD 1.5 and SDXL, and the places in FLUX."""

from __future__ import annotations

import pytest
from likeness.adapters.layers import (
    SD15_LAYERS,
    SDXL_LAYERS,
    FluxPlace,
    flux_places,
    sdxl_layers,
    sdxl_layers_of_widths,
)

# (number of the cross layer, diffusers, ComfyUI block, block id, ComfyUI path, level), from the published numbering
CROSS_LAYERS = [
    (1, "down_blocks.0.attentions.0", "input", 1, "input_blocks.1.1", 0),
    (3, "down_blocks.0.attentions.1", "input", 2, "input_blocks.2.1", 0),
    (5, "down_blocks.1.attentions.0", "input", 4, "input_blocks.4.1", 1),
    (7, "down_blocks.1.attentions.1", "input", 5, "input_blocks.5.1", 1),
    (9, "down_blocks.2.attentions.0", "input", 7, "input_blocks.7.1", 2),
    (11, "down_blocks.2.attentions.1", "input", 8, "input_blocks.8.1", 2),
    (13, "up_blocks.1.attentions.0", "output", 3, "output_blocks.3.1", 2),
    (15, "up_blocks.1.attentions.1", "output", 4, "output_blocks.4.1", 2),
    (17, "up_blocks.1.attentions.2", "output", 5, "output_blocks.5.1", 2),
    (19, "up_blocks.2.attentions.0", "output", 6, "output_blocks.6.1", 1),
    (21, "up_blocks.2.attentions.1", "output", 7, "output_blocks.7.1", 1),
    (23, "up_blocks.2.attentions.2", "output", 8, "output_blocks.8.1", 1),
    (25, "up_blocks.3.attentions.0", "output", 9, "output_blocks.9.1", 0),
    (27, "up_blocks.3.attentions.1", "output", 10, "output_blocks.10.1", 0),
    (29, "up_blocks.3.attentions.2", "output", 11, "output_blocks.11.1", 0),
    (31, "mid_block.attentions.0", "middle", 0, "middle_block.1", 3),
]


def test_table():
    assert [layer.number for layer in SD15_LAYERS] == list(range(32))
    for number, diffusers, block, block_id, comfyui, level in CROSS_LAYERS:
        for kind, layer in (("attn1", SD15_LAYERS[number - 1]), ("attn2", SD15_LAYERS[number])):
            assert layer.kind == kind
            assert layer.is_cross == (kind == "attn2")
            assert layer.diffusers == f"{diffusers}.transformer_blocks.0.{kind}"
            assert (layer.block, layer.block_id, layer.index, layer.level) == (block, block_id, 0, level)
            assert layer.weight_prefix == f"diffusion_model.{comfyui}.transformer_blocks.0.{kind}."


def test_order_is_that_of_a_diffusers_unet():
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, attention_head_dim=2)
    assert list(unet.attn_processors) == [f"{layer.diffusers}.processor" for layer in SD15_LAYERS]


@pytest.mark.parametrize(
    ("number", "size"), [(1, (65, 97)), (5, (33, 49)), (9, (17, 25)), (31, (9, 13)), (13, (17, 25)), (29, (65, 97))]
)
def test_grid_rounds_up_at_each_stride(number, size):
    assert SD15_LAYERS[number].grid(65, 97) == size


# (first number, count, diffusers, ComfyUI block, block id, ComfyUI path, level), from the published numbering
SDXL_PLACES = [
    (1, 2, "down_blocks.1.attentions.0", "input", 4, "input_blocks.4.1", 1),
    (5, 2, "down_blocks.1.attentions.1", "input", 5, "input_blocks.5.1", 1),
    (9, 10, "down_blocks.2.attentions.0", "input", 7, "input_blocks.7.1", 2),
    (29, 10, "down_blocks.2.attentions.1", "input", 8, "input_blocks.8.1", 2),
    (49, 10, "up_blocks.0.attentions.0", "output", 0, "output_blocks.0.1", 2),
    (69, 10, "up_blocks.0.attentions.1", "output", 1, "output_blocks.1.1", 2),
    (89, 10, "up_blocks.0.attentions.2", "output", 2, "output_blocks.2.1", 2),
    (109, 2, "up_blocks.1.attentions.0", "output", 3, "output_blocks.3.1", 1),
    (113, 2, "up_blocks.1.attentions.1", "output", 4, "output_blocks.4.1", 1),
    (117, 2, "up_blocks.1.attentions.2", "output", 5, "output_blocks.5.1", 1),
    (121, 10, "mid_block.attentions.0", "middle", 0, "middle_block.1", 2),
]


def test_sdxl_table():
    assert [layer.number for layer in SDXL_LAYERS] == list(range(140))
    seen = 0
    for first, count, diffusers, block, block_id, comfyui, level in SDXL_PLACES:
        for index in range(count):
            for kind, layer in (
                ("attn1", SDXL_LAYERS[first - 1 + 2 * index]),
                ("attn2", SDXL_LAYERS[first + 2 * index]),
            ):
                assert layer.kind == kind
                assert layer.diffusers == f"{diffusers}.transformer_blocks.{index}.{kind}"
                assert (layer.block, layer.block_id, layer.index, layer.level) == (block, block_id, index, level)
                assert layer.weight_prefix == f"diffusion_model.{comfyui}.transformer_blocks.{index}.{kind}."
                seen += 1
    assert seen == 140


def test_sdxl_order_is_that_of_a_diffusers_unet():
    """Full depth, small width."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8, 8),
        norm_num_groups=4,
        attention_head_dim=(1, 2, 2),
        transformer_layers_per_block=(1, 2, 10),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=4,
    )
    assert list(unet.attn_processors) == [f"{layer.diffusers}.processor" for layer in SDXL_LAYERS]


def test_sdxl_layers_are_told_by_their_widths():
    released = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10
    assert sdxl_layers_of_widths(released) == SDXL_LAYERS
    for depths in ((1, 1), (1, 2), (3, 1), (2, 2)):
        layers = sdxl_layers(*depths)
        assert sdxl_layers_of_widths([8 * layer.level for layer in layers if layer.is_cross]) == layers
    sd15 = [320, 320, 640, 640] + [1280] * 5 + [640] * 3 + [320] * 3 + [1280]
    for wrong in (released[:-1], released[:-10], released[::-1], [640] * 70 + [1280], sd15, []):
        assert sdxl_layers_of_widths(wrong) is None


def test_flux_places():
    assert flux_places() == (
        *(FluxPlace("double_block", index) for index in (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)),
        *(FluxPlace("single_block", index) for index in (0, 4, 8, 12, 16, 20, 24, 28, 32, 36)),
    )
    assert [(place.kind[:6], place.index) for place in flux_places(3, 5)] == [
        ("double", 0),
        ("double", 2),
        ("single", 0),
        ("single", 4),
    ]
