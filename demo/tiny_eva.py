"""Key and shape table of the EVA02-CLIP tower as its publisher names it (docs/pulid.md, 6.1)."""

from __future__ import annotations

from .tiny_layouts import Shapes, affine
from .tiny_pulid_sizes import EvaSizes


def _block(key: str, sizes: EvaSizes) -> Shapes:
    width, inner = sizes.width, sizes.feed_forward
    shapes = affine(f"{key}.norm1", width) | affine(f"{key}.norm2", width)
    for name in ("q_proj", "k_proj", "v_proj"):
        shapes |= affine(f"{key}.attn.{name}", width, width, bias=False)
    shapes |= {f"{key}.attn.{name}": (width,) for name in ("q_bias", "v_bias")}
    shapes |= affine(f"{key}.attn.inner_attn_ln", width) | affine(f"{key}.attn.proj", width, width)
    shapes |= affine(f"{key}.mlp.w1", inner, width) | affine(f"{key}.mlp.w2", inner, width)
    return shapes | affine(f"{key}.mlp.ffn_ln", inner) | affine(f"{key}.mlp.w3", width, inner)


def eva_shapes(sizes: EvaSizes) -> Shapes:
    """Return the table of the visual tower, without a prefix, with one of the rotary constants that nobody reads."""
    patches = (sizes.image // sizes.patch) ** 2
    shapes: Shapes = {
        "cls_token": (1, 1, sizes.width),
        "pos_embed": (1, patches + 1, sizes.width),
        "rope.freqs_cos": (patches, sizes.head_width),
    }
    shapes |= affine("patch_embed.proj", sizes.width, 3, sizes.patch, sizes.patch)
    for number in range(sizes.layers):
        shapes |= _block(f"blocks.{number}", sizes)
    return shapes | affine("norm", sizes.width) | affine("head", sizes.embedding, sizes.width)
