"""Key and shape tables of UniPortrait's files (specification sections 8 to 10); L is the released layer number."""

from __future__ import annotations

from .tiny_layouts import Shapes, affine
from .tiny_sizes import TinySizes


def _batch_norm(key: str, width: int, with_affine: bool = True) -> Shapes:
    shapes = affine(key, width) if with_affine else {}
    return shapes | {
        f"{key}.running_mean": (width,),
        f"{key}.running_var": (width,),
        f"{key}.num_batches_tracked": (),
    }


def resampler_shapes(sizes: TinySizes) -> Shapes:
    """Return the table of `faceid_proj`, the ID resampler."""
    width, inner = sizes.resampler_width, sizes.resampler_heads * sizes.resampler_head_width
    shapes: Shapes = {"latents": (1, sizes.id_tokens, width)}
    for name, inputs in (("proj_id", sizes.backbone_widths[3]), ("proj_clip", sizes.structure_width)):
        shapes |= affine(f"{name}.0", 2 * inputs, inputs) | affine(f"{name}.2", width, 2 * inputs)
    for layer in range(sizes.resampler_layers):
        for branch in (0, 1):  # intrinsic, structure
            key = f"layers.{layer}.{branch}"
            shapes |= affine(f"{key}.norm1", width) | affine(f"{key}.norm2", width)
            shapes |= affine(f"{key}.to_q", inner, width, bias=False)
            shapes |= affine(f"{key}.to_kv", 2 * inner, width, bias=False)
            shapes |= affine(f"{key}.to_out", width, inner, bias=False)
        key = f"layers.{layer}.2"
        shapes |= affine(f"{key}.0", width)
        shapes |= affine(f"{key}.1", 4 * width, width, bias=False) | affine(f"{key}.3", width, 4 * width, bias=False)
    return shapes | affine("proj_out", sizes.context, width) | affine("norm_out", sizes.context)


def lora_shapes(sizes: TinySizes) -> Shapes:
    """Return the LoRA part of `faceid_adapter`, the same in both files: four pairs in each of the 32 layers."""
    shapes: Shapes = {}
    for number, width in enumerate(sizes.layer_widths):
        inputs = sizes.context if number % 2 else width
        for name, size in (("to_q", width), ("to_k", inputs), ("to_v", inputs), ("to_out", width)):
            shapes |= affine(f"{number}.{name}_lora.down", sizes.lora_rank, size, bias=False)
            shapes |= affine(f"{number}.{name}_lora.up", width, sizes.lora_rank, bias=False)
    return shapes


def projection_shapes(sizes: TinySizes, suffix: str) -> Shapes:
    """Return `L.to_k_<suffix>` and `L.to_v_<suffix>` of the 16 cross layers: suffix "faceid" or "ip"."""
    shapes: Shapes = {}
    for number, width in list(enumerate(sizes.layer_widths))[1::2]:
        shapes |= affine(f"{number}.to_k_{suffix}", width, sizes.context, bias=False)
        shapes |= affine(f"{number}.to_v_{suffix}", width, sizes.context, bias=False)
    return shapes


def routing_shapes(sizes: TinySizes) -> Shapes:
    """Return the routers of the 16 cross layers."""
    shapes: Shapes = {}
    for number, width in list(enumerate(sizes.layer_widths))[1::2]:
        for name, inputs in (("to_q_router", width), ("to_k_router", sizes.context)):
            shapes |= affine(f"{number}.{name}.0", 2 * inputs, inputs)
            shapes |= affine(f"{number}.{name}.2", width, 2 * inputs, bias=False)
        shapes |= affine(f"{number}.aggr_router", 1, sizes.id_tokens)
    return shapes


def image_projection_shapes(sizes: TinySizes) -> Shapes:
    """Return the table of `image_proj` of the IP-Adapter."""
    shapes = affine("proj", sizes.ip_tokens * sizes.context, sizes.vision_projection)
    return shapes | affine("norm", sizes.context)


def _backbone_block(key: str, inputs: int, outputs: int) -> Shapes:
    shapes = _batch_norm(f"{key}.res_layer.0", inputs)
    shapes |= affine(f"{key}.res_layer.1", outputs, inputs, 3, 3, bias=False)
    shapes |= _batch_norm(f"{key}.res_layer.2", outputs) | affine(f"{key}.res_layer.3", outputs, bias=False)
    shapes |= affine(f"{key}.res_layer.4", outputs, outputs, 3, 3, bias=False)
    shapes |= _batch_norm(f"{key}.res_layer.5", outputs)
    if inputs != outputs:
        shapes |= affine(f"{key}.shortcut_layer.0", outputs, inputs, 1, 1, bias=False)
        shapes |= _batch_norm(f"{key}.shortcut_layer.1", outputs)
    return shapes


def backbone_shapes(sizes: TinySizes) -> Shapes:
    """Return the table of the face recognition backbone IR-101; input 112 x 112, last map 7 x 7."""
    width = sizes.backbone_widths[0]
    shapes = affine("input_layer.0", width, 3, 3, 3, bias=False) | _batch_norm("input_layer.1", width)
    shapes |= affine("input_layer.2", width, bias=False)
    number = 0
    for outputs, units in zip(sizes.backbone_widths, sizes.backbone_units, strict=True):
        for _ in range(units):
            shapes |= _backbone_block(f"body.{number}", width, outputs)
            number, width = number + 1, outputs
    shapes |= _batch_norm("output_layer.0", width) | affine("output_layer.3", sizes.embedding, 49 * width)
    return shapes | _batch_norm("output_layer.4", sizes.embedding, with_affine=False)
