"""Key and shape tables of FLUX and T5, and of OpenCLIP's text encoder, which SDXL has beside CLIP's."""

from __future__ import annotations

from .tiny_layouts import Shapes, affine, clip_text_shapes, taesd_shapes, under, unet_shapes
from .tiny_pulid_sizes import FluxSizes, PulidSizes, T5Sizes
from .tiny_sizes import TextSizes, UNetSizes

PATCH = 2  # latent cells on each side of an image token
EMBEDDED = 256  # sinusoids of a number: time step, guidance


def _embedder(key: str, inputs: int, width: int) -> Shapes:
    return affine(f"{key}.in_layer", width, inputs) | affine(f"{key}.out_layer", width, width)


def _norms(key: str, head_width: int) -> Shapes:
    return {f"{key}.norm.{name}_norm.scale": (head_width,) for name in ("query", "key")}


def _double_block(key: str, sizes: FluxSizes) -> Shapes:
    width, shapes = sizes.width, Shapes()
    for stream in ("img", "txt"):
        shapes |= affine(f"{key}.{stream}_mod.lin", 6 * width, width)
        shapes |= affine(f"{key}.{stream}_attn.qkv", 3 * width, width) | affine(
            f"{key}.{stream}_attn.proj", width, width
        )
        shapes |= _norms(f"{key}.{stream}_attn", sizes.head_width)
        shapes |= affine(f"{key}.{stream}_mlp.0", sizes.feed_forward, width)
        shapes |= affine(f"{key}.{stream}_mlp.2", width, sizes.feed_forward)
    return shapes


def _single_block(key: str, sizes: FluxSizes) -> Shapes:
    width = sizes.width
    shapes = affine(f"{key}.modulation.lin", 3 * width, width) | _norms(key, sizes.head_width)
    shapes |= affine(f"{key}.linear1", 3 * width + sizes.feed_forward, width)
    return shapes | affine(f"{key}.linear2", width, width + sizes.feed_forward)


def flux_shapes(sizes: FluxSizes) -> Shapes:
    """Return the table of FLUX's network as its files name it, with guidance, without a prefix."""
    width, patch = sizes.width, sizes.latent_channels * PATCH**2
    shapes = affine("img_in", width, patch) | affine("txt_in", width, sizes.t5.width)
    shapes |= _embedder("time_in", EMBEDDED, width) | _embedder("guidance_in", EMBEDDED, width)
    shapes |= _embedder("vector_in", sizes.clip.width, width)
    for number in range(sizes.double_blocks):
        shapes |= _double_block(f"double_blocks.{number}", sizes)
    for number in range(sizes.single_blocks):
        shapes |= _single_block(f"single_blocks.{number}", sizes)
    shapes |= affine("final_layer.adaLN_modulation.1", 2 * width, width)
    return shapes | affine("final_layer.linear", patch, width)


def t5_shapes(sizes: T5Sizes) -> Shapes:
    """Return the table of T5's encoder in the naming of transformers."""
    inner = sizes.heads * sizes.head_width
    shapes: Shapes = {"shared.weight": (sizes.vocabulary, sizes.width)}
    for number in range(sizes.layers):
        attention, feed_forward = (f"encoder.block.{number}.layer.{part}" for part in (0, 1))
        for name in ("q", "k", "v"):
            shapes |= affine(f"{attention}.SelfAttention.{name}", inner, sizes.width, bias=False)
        shapes |= affine(f"{attention}.SelfAttention.o", sizes.width, inner, bias=False)
        if not number:  # the others take the first one's
            bias = f"{attention}.SelfAttention.relative_attention_bias"
            shapes |= affine(bias, sizes.buckets, sizes.heads, bias=False)
        for name in ("wi_0", "wi_1"):
            key = f"{feed_forward}.DenseReluDense.{name}"
            shapes |= affine(key, sizes.feed_forward, sizes.width, bias=False)
        shapes |= affine(f"{feed_forward}.DenseReluDense.wo", sizes.width, sizes.feed_forward, bias=False)
        for part in (attention, feed_forward):
            shapes |= affine(f"{part}.layer_norm", sizes.width, bias=False)
    return shapes | affine("encoder.final_layer_norm", sizes.width, bias=False)


def open_clip_text_shapes(sizes: TextSizes) -> Shapes:
    """Return the table of a CLIP text encoder with projection in OpenCLIP's naming."""
    width = sizes.width
    shapes: Shapes = {
        "token_embedding.weight": (sizes.vocabulary, width),
        "positional_embedding": (sizes.positions, width),
        "text_projection": (width, width),
    }
    for number in range(sizes.layers):
        key = f"transformer.resblocks.{number}"
        shapes |= affine(f"{key}.ln_1", width) | affine(f"{key}.ln_2", width)
        shapes |= {f"{key}.attn.in_proj_weight": (3 * width, width), f"{key}.attn.in_proj_bias": (3 * width,)}
        shapes |= affine(f"{key}.attn.out_proj", width, width)
        shapes |= affine(f"{key}.mlp.c_fc", sizes.feed_forward, width)
        shapes |= affine(f"{key}.mlp.c_proj", width, sizes.feed_forward)
    return shapes | affine("ln_final", width)


def sdxl_checkpoint_parts(sizes: PulidSizes) -> dict[str, Shapes]:
    """Prefix -> table: what an SDXL checkpoint holds, with TAESD in the place of the VAE."""
    return {
        "model.diffusion_model.": unet_shapes(sizes.sdxl),
        "first_stage_model.": taesd_shapes(sizes.sdxl),
        "conditioner.embedders.0.transformer.": clip_text_shapes(sizes.clip_l),
        "conditioner.embedders.1.model.": open_clip_text_shapes(sizes.clip_g),
    }


def flux_checkpoint_parts(sizes: FluxSizes) -> dict[str, Shapes]:
    """Prefix -> table: what a FLUX checkpoint with everything in it holds, with TAESD in the place of the VAE."""
    return {
        "model.diffusion_model.": flux_shapes(sizes),
        "vae.": taesd_shapes(UNetSizes(latent_channels=sizes.latent_channels)),
        "text_encoders.clip_l.transformer.": clip_text_shapes(sizes.clip),
        "text_encoders.t5xxl.transformer.": t5_shapes(sizes.t5),
    }


def shapes_of(parts: dict[str, Shapes]) -> Shapes:
    """Return the parts as one table."""
    return {key: shape for prefix, table in parts.items() for key, shape in under(prefix, table).items()}
