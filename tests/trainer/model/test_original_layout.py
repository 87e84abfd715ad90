"""The U-Net in the original layout: the table of the demo, and there and back."""

from __future__ import annotations

import diffusers
import pytest
import torch
from likeness.demo.tiny_layouts import unet_shapes
from likeness.demo.tiny_sizes import RELEASED_SIZES, TinySizes
from likeness.recipes.base import unet_config
from likeness.trainer.model import single_file
from likeness.trainer.model.original_layout import PREFIX, check_convolutions, unet_from_original, unet_to_original

SIZES = TinySizes()
TINY = unet_config(SIZES)


@pytest.mark.parametrize(("config", "sizes"), [(TINY, SIZES), (single_file.UNET, RELEASED_SIZES)])
def test_names_and_shapes_are_those_of_checkpoints(config, sizes):
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**config)
    found = {key: tuple(value.shape) for key, value in unet_to_original(unet.state_dict()).items()}
    assert found == {PREFIX + key: shape for key, shape in unet_shapes(sizes).items()}


def test_there_and_back_is_the_same_network():
    unet = diffusers.UNet2DConditionModel(**TINY)
    state = unet.state_dict()
    back = unet_from_original({**unet_to_original(state), "first_stage_model.x": torch.zeros(1)})
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)


def test_it_is_what_diffusers_itself_makes_of_the_file():
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = diffusers.UNet2DConditionModel(**TINY)
    converted = convert_ldm_unet_checkpoint(unet_to_original(unet.state_dict()), unet.config)
    unet.load_state_dict(converted, strict=True)
    assert all(torch.equal(converted[key], value) for key, value in unet.state_dict().items())


def test_other_architectures_are_refused():
    with torch.device("meta"):
        other = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
        )
        linear = diffusers.UNet2DConditionModel(**TINY, use_linear_projection=True)
    with pytest.raises(ValueError, match="no U-Net of SD 1.5's architecture in the diffusers layout"):
        unet_to_original(other.state_dict())
    with pytest.raises(ValueError, match="of SD 2's kind"):
        check_convolutions(linear.state_dict())
