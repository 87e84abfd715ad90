"""The 32 attention layers of SD 1.5."""

from __future__ import annotations

import pytest
from likeness.adapters.layers import SD15_LAYERS

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
            assert (layer.block, layer.block_id, layer.level) == (block, block_id, level)
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
