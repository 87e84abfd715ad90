"""The keys and shapes of UniID's released files, written down from the specification (docs/uniid.md, 3 and 5)."""

from __future__ import annotations

from likeness.adapters.image_resampler import ImageResamplerSizes
from likeness.adapters.layers import SDXL_LAYERS
from likeness.adapters.text_branch import TextBranchSizes
from likeness.adapters.uniid import UniID, UniIDSizes, released_form

TEXT, ADAPTER = "text_branch.", "adapter_branch."


def layer_shapes(prefix: str, sources: int, width: int) -> dict[str, tuple[int, ...]]:
    """The keys of one layer of a resampler, from the specification."""
    shapes = {}
    for source in range(sources):
        shapes.update({f"{prefix}{source}.norm{n}.{leaf}": (width,) for n in (1, 2) for leaf in ("weight", "bias")})
        shapes.update({f"{prefix}{source}.to_{name}.weight": (width, width) for name in ("q", "out")})
        shapes[f"{prefix}{source}.to_kv.weight"] = (2 * width, width)
    feed = f"{prefix}{sources}."
    shapes.update({f"{feed}0.weight": (width,), f"{feed}0.bias": (width,)})
    return {**shapes, f"{feed}1.weight": (4 * width, width), f"{feed}3.weight": (width, 4 * width)}


def released_text_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {}
    for k, width in ((1, 768), (2, 1280)):
        shapes.update({f"proj_{k}.proj.0.weight": (1024, 512), f"proj_{k}.proj.0.bias": (1024,)})
        shapes.update({f"proj_{k}.proj.2.weight": (3 * width, 1024), f"proj_{k}.proj.2.bias": (3 * width,)})
        shapes.update({f"norm_{k}.weight": (width,), f"norm_{k}.bias": (width,)})
        resampler = f"text_resampler_{k}."
        shapes.update({f"{resampler}proj_in.weight": (width, 512), f"{resampler}proj_in.bias": (width,)})
        shapes.update({f"{resampler}proj_out.weight": (width, width), f"{resampler}proj_out.bias": (width,)})
        shapes.update({f"{resampler}norm_out.weight": (width,), f"{resampler}norm_out.bias": (width,)})
        for layer in range(4):
            shapes.update(layer_shapes(f"{resampler}layers.{layer}.", 1, width))
    return {TEXT + key: shape for key, shape in shapes.items()}


def released_adapter_shapes() -> dict[str, tuple[int, ...]]:
    resampler = "adapter_resampler."
    shapes = {"latents": (1, 25, 768)}
    for source, width in enumerate((448, 512)):
        projection = f"{resampler}proj_face_recog_model_layers.{source}."
        shapes.update({f"{projection}weight": (768, width), f"{projection}bias": (768,)})
    for layer in range(6):
        shapes.update(layer_shapes(f"{resampler}layers.{layer}.", 2, 768))
    shapes.update({f"{resampler}proj_out.weight": (2048, 768), f"{resampler}proj_out.bias": (2048,)})
    shapes.update({f"{resampler}norm_out.weight": (2048,), f"{resampler}norm_out.bias": (2048,)})
    for number in range(1, 140, 2):
        width = 640 if number <= 7 or 109 <= number <= 119 else 1280
        shapes.update({f"adapter_modules.{number}.to_{name}_ip.weight": (width, 2048) for name in "kv"})
    return {ADAPTER + key: shape for key, shape in shapes.items()}


def test_released_sizes_have_the_published_keys():
    """All keys and shapes of the specification, and its counts of parameters, on the meta device."""
    hidden = tuple(1280 if layer.level == 2 else 640 for layer in SDXL_LAYERS)
    text = UniID(UniIDSizes(TextBranchSizes()), device="meta")
    adapter = UniID(UniIDSizes(adapter=ImageResamplerSizes(), hidden=hidden), device="meta")
    for branch, expected, count, parameters in (
        (text, released_text_shapes(), 112, 117_641_216),
        (adapter, released_adapter_shapes(), 257, 399_793_408),
    ):
        tensors, stated = released_form(branch)
        assert {key: tuple(value.shape) for key, value in tensors.items()} == expected
        assert len(tensors) == count and sum(value.numel() for value in tensors.values()) == parameters
        assert all(heads in ("12", "20") for heads in stated.values())
    both, _ = released_form(UniID(UniIDSizes(TextBranchSizes(), ImageResamplerSizes(), hidden), device="meta"))
    assert set(both) == set(released_text_shapes()) | set(released_adapter_shapes())
