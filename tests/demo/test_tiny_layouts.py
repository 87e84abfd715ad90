"""The key tables hold for the released models: specification sections 8 to 10, and the published parameter counts."""

from __future__ import annotations

import math

import pytest
from likeness.adapters.layers import SD15_LAYERS
from likeness.demo import tiny_eva, tiny_flux, tiny_layouts, tiny_uniportrait
from likeness.demo.tiny_layouts import Shapes
from likeness.demo.tiny_pulid_sizes import RELEASED_PULID_SIZES
from likeness.demo.tiny_sizes import RELEASED_SIZES, TinySizes

# C(L) of section 8: down 320 320 640 640 1280 1280, up 1280 x3 640 x3 320 x3, middle 1280; two layers each
WIDTHS = [w for w in [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280] for _ in range(2)]


def number_of_values(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_the_resampler_has_the_released_keys_and_shapes():
    expected = {
        "latents": (1, 16, 768),
        "proj_id.0.weight": (1024, 512),
        "proj_id.0.bias": (1024,),
        "proj_id.2.weight": (768, 1024),
        "proj_id.2.bias": (768,),
        "proj_clip.0.weight": (3456, 1728),
        "proj_clip.0.bias": (3456,),
        "proj_clip.2.weight": (768, 3456),
        "proj_clip.2.bias": (768,),
        "proj_out.weight": (768, 768),
        "proj_out.bias": (768,),
        "norm_out.weight": (768,),
        "norm_out.bias": (768,),
    }
    for i in range(6):
        for j in range(2):
            for norm in ("norm1", "norm2"):
                expected[f"layers.{i}.{j}.{norm}.weight"] = expected[f"layers.{i}.{j}.{norm}.bias"] = (768,)
            expected[f"layers.{i}.{j}.to_q.weight"] = expected[f"layers.{i}.{j}.to_out.weight"] = (768, 768)
            expected[f"layers.{i}.{j}.to_kv.weight"] = (1536, 768)
        expected[f"layers.{i}.2.0.weight"] = expected[f"layers.{i}.2.0.bias"] = (768,)
        expected[f"layers.{i}.2.1.weight"], expected[f"layers.{i}.2.3.weight"] = (3072, 768), (768, 3072)
    assert len(expected) == 121
    assert tiny_uniportrait.resampler_shapes(RELEASED_SIZES) == expected


def test_the_loras_have_the_released_keys_and_shapes():
    expected = {}
    for number, width in enumerate(WIDTHS):
        into = 768 if number % 2 else width
        for name, size in (("q", width), ("k", into), ("v", into), ("out", width)):
            expected[f"{number}.to_{name}_lora.down.weight"] = (128, size)
            expected[f"{number}.to_{name}_lora.up.weight"] = (width, 128)
    assert len(expected) == 256
    assert tiny_uniportrait.lora_shapes(RELEASED_SIZES) == expected


@pytest.mark.parametrize("suffix", ["faceid", "ip"])
def test_the_projections_have_the_released_keys_and_shapes(suffix):
    expected = {f"{n}.to_{x}_{suffix}.weight": (WIDTHS[n], 768) for n in range(1, 32, 2) for x in "kv"}
    assert len(expected) == 32
    assert tiny_uniportrait.projection_shapes(RELEASED_SIZES, suffix) == expected


def test_the_routers_have_the_released_keys_and_shapes():
    expected = {}
    for number in range(1, 32, 2):
        C = WIDTHS[number]
        expected |= {
            f"{number}.to_q_router.0.weight": (2 * C, C),
            f"{number}.to_q_router.0.bias": (2 * C,),
            f"{number}.to_q_router.2.weight": (C, 2 * C),
            f"{number}.to_k_router.0.weight": (1536, 768),
            f"{number}.to_k_router.0.bias": (1536,),
            f"{number}.to_k_router.2.weight": (C, 1536),
            f"{number}.aggr_router.weight": (1, 16),
            f"{number}.aggr_router.bias": (1,),
        }
    assert tiny_uniportrait.routing_shapes(RELEASED_SIZES) == expected


def test_the_backbone_has_the_released_keys():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"input_layer.0.weight", "input_layer.2.weight", *(f"input_layer.1.{n}" for n in norm)}
    for i in range(49):
        expected |= {f"body.{i}.res_layer.{part}.{n}" for part in (0, 2, 5) for n in norm}
        expected |= {f"body.{i}.res_layer.{part}.weight" for part in (1, 3, 4)}
    for i in (3, 16, 46):
        expected |= {f"body.{i}.shortcut_layer.0.weight", *(f"body.{i}.shortcut_layer.1.{n}" for n in norm)}
    expected |= {f"output_layer.0.{n}" for n in norm} | {"output_layer.3.weight", "output_layer.3.bias"}
    expected |= {f"output_layer.4.{n}" for n in norm[2:]}
    shapes = tiny_uniportrait.backbone_shapes(RELEASED_SIZES)
    assert set(shapes) == expected
    assert len(expected) == 917
    assert shapes["output_layer.3.weight"] == (512, 25088)


@pytest.mark.parametrize(
    ("values", "shapes"),
    [
        (859_520_964, tiny_layouts.unet_shapes(RELEASED_SIZES)),
        (361_279_120, tiny_layouts.controlnet_shapes(RELEASED_SIZES)),
        (123_060_480, tiny_layouts.text_shapes(RELEASED_SIZES)),
        (632_076_800, tiny_layouts.vision_shapes(RELEASED_SIZES)),
        (67_216_512, tiny_uniportrait.resampler_shapes(RELEASED_SIZES)),
        (25_509_888, tiny_uniportrait.lora_shapes(RELEASED_SIZES)),
        (19_169_280, tiny_uniportrait.projection_shapes(RELEASED_SIZES, "faceid")),
        (87_655_056, tiny_uniportrait.routing_shapes(RELEASED_SIZES)),
        (65_220_569, tiny_uniportrait.backbone_shapes(RELEASED_SIZES)),
        (2_567_463_684, tiny_layouts.unet_shapes(RELEASED_PULID_SIZES.sdxl)),
        (694_659_840, tiny_flux.open_clip_text_shapes(RELEASED_PULID_SIZES.clip_g)),
        (11_901_408_320, tiny_flux.flux_shapes(RELEASED_PULID_SIZES.flux)),
        (4_762_310_656, tiny_flux.t5_shapes(RELEASED_PULID_SIZES.flux.t5)),
        (304_432_832 + 576 * 64, tiny_eva.eva_shapes(RELEASED_PULID_SIZES.eva)),  # with the rotary constant
    ],
    ids=["unet", "controlnet", "text", "vision", "resampler", "lora", "projections", "routers", "backbone"]
    + ["sdxl", "open-clip", "flux", "t5", "eva"],
)
def test_the_released_sizes_give_the_published_parameter_counts(values, shapes):
    assert number_of_values(shapes) == values


@pytest.mark.parametrize(
    "table",
    [
        tiny_layouts.unet_shapes,
        tiny_layouts.controlnet_shapes,
        tiny_layouts.taesd_shapes,
        tiny_uniportrait.resampler_shapes,
        tiny_uniportrait.lora_shapes,
        tiny_uniportrait.routing_shapes,
        tiny_uniportrait.image_projection_shapes,
        tiny_uniportrait.backbone_shapes,
    ],
)
def test_the_tiny_models_have_every_key_of_the_released_ones(table):
    # Between levels of one width there is no convolution beside a block, as in SD 1.5 between the third and the fourth.
    levels = tuple(f"input_blocks.{number}.0.skip_connection" for number in (4, 7))
    assert set(table(TinySizes())) == {key for key in table(RELEASED_SIZES) if not key.startswith(levels)}


def test_the_unet_has_the_attention_layers_of_the_index_map():
    sizes = TinySizes()
    unet = tiny_layouts.under("diffusion_model.", tiny_layouts.unet_shapes(sizes))
    assert len(SD15_LAYERS) == len(sizes.layer_widths) == 32
    for layer in SD15_LAYERS:
        width, into = sizes.layer_widths[layer.number], sizes.context
        assert unet[f"{layer.weight_prefix}to_q.weight"] == (width, width)
        assert unet[f"{layer.weight_prefix}to_k.weight"] == (width, into if layer.number % 2 else width)
