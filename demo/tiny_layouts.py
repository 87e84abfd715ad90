"""Key and shape tables of the ComfyUI models: UNet and ControlNet of SD 1.5 and SDXL, TAESD, CLIP text, CLIP vision.

Each function returns key -> shape as the file holds it, built from the architecture. With `RELEASED_SIZES` the tables
are those of the real models (859,520,964 values in the UNet).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from .tiny_sizes import TextSizes, TinySizes, UNetSizes

Shapes = dict[str, tuple[int, ...]]

TAESD_WIDTH = 64  # fixed in TAESD's code, whatever the latent
HINT_WIDTHS = (16, 16, 32, 32, 96, 96, 256)  # ControlNet's hint encoder, before its last convolution


Value = TypeVar("Value")


def under(prefix: str, table: Mapping[str, Value]) -> dict[str, Value]:
    """Return the table with `prefix` in front of every key."""
    return {prefix + key: value for key, value in table.items()}


def affine(key: str, *shape: int, bias: bool = True) -> Shapes:
    """Return `key.weight` of that shape and `key.bias` of its first size."""
    return {f"{key}.weight": shape} | ({f"{key}.bias": (shape[0],)} if bias else {})


def _res_block(key: str, inputs: int, outputs: int, emb: int) -> Shapes:
    shapes = affine(f"{key}.in_layers.0", inputs) | affine(f"{key}.in_layers.2", outputs, inputs, 3, 3)
    shapes |= affine(f"{key}.emb_layers.1", outputs, emb)
    shapes |= affine(f"{key}.out_layers.0", outputs) | affine(f"{key}.out_layers.3", outputs, outputs, 3, 3)
    if inputs != outputs:
        shapes |= affine(f"{key}.skip_connection", outputs, inputs, 1, 1)
    return shapes


def _attention(key: str, width: int, context: int) -> Shapes:
    shapes = affine(f"{key}.to_q", width, width, bias=False)
    shapes |= affine(f"{key}.to_k", width, context, bias=False) | affine(f"{key}.to_v", width, context, bias=False)
    return shapes | affine(f"{key}.to_out.0", width, width)


def _transformers(key: str, width: int, depth: int, sizes: UNetSizes) -> Shapes:
    """The stack of transformers in one place of a UNet; none where depth is 0."""
    kernel = () if sizes.linear else (1, 1)
    shapes: Shapes = {}
    for number in range(depth):
        block = f"{key}.transformer_blocks.{number}"
        shapes |= _attention(f"{block}.attn1", width, width) | _attention(f"{block}.attn2", width, sizes.context)
        shapes |= affine(f"{block}.ff.net.0.proj", 8 * width, width) | affine(f"{block}.ff.net.2", width, 4 * width)
        for norm in (1, 2, 3):
            shapes |= affine(f"{block}.norm{norm}", width)
    if depth:
        shapes |= affine(f"{key}.norm", width)
        shapes |= affine(f"{key}.proj_in", width, width, *kernel) | affine(f"{key}.proj_out", width, width, *kernel)
    return shapes


def _encoder_half(sizes: UNetSizes) -> tuple[Shapes, list[int]]:
    """Embeddings, input blocks and middle block, which UNet and ControlNet share, and the widths of the skips."""
    emb = 4 * sizes.model_channels
    shapes = affine("time_embed.0", emb, sizes.model_channels) | affine("time_embed.2", emb, emb)
    if sizes.labels:
        shapes |= affine("label_emb.0.0", emb, sizes.labels) | affine("label_emb.0.2", emb, emb)
    shapes |= affine("input_blocks.0.0", sizes.model_channels, sizes.latent_channels, 3, 3)
    skips = [sizes.model_channels]
    last = len(sizes.widths) - 1
    for level, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
        for _ in range(sizes.num_res_blocks):
            key = f"input_blocks.{len(skips)}"
            shapes |= _res_block(f"{key}.0", skips[-1], width, emb) | _transformers(f"{key}.1", width, depth, sizes)
            skips.append(width)
        if level != last:
            shapes |= affine(f"input_blocks.{len(skips)}.0.op", width, width, 3, 3)
            skips.append(width)
    width = sizes.widths[-1]
    shapes |= _res_block("middle_block.0", width, width, emb)
    shapes |= _transformers("middle_block.1", width, sizes.middle_depth, sizes)
    return shapes | _res_block("middle_block.2", width, width, emb), skips


def unet_shapes(sizes: UNetSizes) -> Shapes:
    """Return the table of a UNet of SD 1.5 or SDXL, without a prefix."""
    shapes, skips = _encoder_half(sizes)
    emb = 4 * sizes.model_channels
    number, below = 0, sizes.widths[-1]
    for level, width in reversed(list(enumerate(sizes.widths))):
        depth = sizes.depths[level]
        for block in range(sizes.num_res_blocks + 1):
            key = f"output_blocks.{number}"
            shapes |= _res_block(f"{key}.0", below + skips.pop(), width, emb)
            shapes |= _transformers(f"{key}.1", width, depth, sizes)
            if level and block == sizes.num_res_blocks:
                shapes |= affine(f"{key}.{2 if depth else 1}.conv", width, width, 3, 3)
            number, below = number + 1, width
    shapes |= affine("out.0", sizes.model_channels)
    return shapes | affine("out.2", sizes.latent_channels, sizes.model_channels, 3, 3)


def controlnet_shapes(sizes: UNetSizes) -> Shapes:
    """Return the table of a ControlNet for such a UNet in the original (cldm) naming, without a prefix."""
    shapes, skips = _encoder_half(sizes)
    widths = (sizes.hint_channels, *HINT_WIDTHS, sizes.model_channels)
    for number in range(len(widths) - 1):
        shapes |= affine(f"input_hint_block.{2 * number}", widths[number + 1], widths[number], 3, 3)
    for number, width in enumerate(skips):
        shapes |= affine(f"zero_convs.{number}.0", width, width, 1, 1)
    return shapes | affine("middle_block_out.0", sizes.widths[-1], sizes.widths[-1], 1, 1)


def taesd_shapes(sizes: UNetSizes) -> Shapes:
    """Return the table of TAESD (encoder and decoder); positions in its two sequences are the key numbers."""

    def conv(key: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
        return affine(key, outputs, inputs, 3, 3, bias=bias)

    def block(key: str) -> Shapes:
        return {k: s for number in (0, 2, 4) for k, s in conv(f"{key}.conv.{number}", TAESD_WIDTH, TAESD_WIDTH).items()}

    shapes: Shapes = {"vae_scale": (), "vae_shift": ()}
    shapes |= conv("taesd_encoder.0", TAESD_WIDTH, 3) | conv("taesd_encoder.14", sizes.latent_channels, TAESD_WIDTH)
    shapes |= conv("taesd_decoder.1", TAESD_WIDTH, sizes.latent_channels) | conv("taesd_decoder.19", 3, TAESD_WIDTH)
    for number in (2, 6, 10):
        shapes |= conv(f"taesd_encoder.{number}", TAESD_WIDTH, TAESD_WIDTH, bias=False)
    for number in (7, 12, 17):
        shapes |= conv(f"taesd_decoder.{number}", TAESD_WIDTH, TAESD_WIDTH, bias=False)
    for number in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        shapes |= block(f"taesd_encoder.{number}")
    for number in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        shapes |= block(f"taesd_decoder.{number}")
    return shapes


def _clip_layer(key: str, width: int, feed_forward: int) -> Shapes:
    shapes = affine(f"{key}.layer_norm1", width) | affine(f"{key}.layer_norm2", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= affine(f"{key}.self_attn.{name}", width, width)
    return shapes | affine(f"{key}.mlp.fc1", feed_forward, width) | affine(f"{key}.mlp.fc2", width, feed_forward)


def clip_text_shapes(sizes: TextSizes) -> Shapes:
    """Return the table of a CLIP text encoder in the naming of transformers, without a projection."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (sizes.vocabulary, sizes.width),
        "text_model.embeddings.position_embedding.weight": (sizes.positions, sizes.width),
    }
    for layer in range(sizes.layers):
        shapes |= _clip_layer(f"text_model.encoder.layers.{layer}", sizes.width, sizes.feed_forward)
    return shapes | affine("text_model.final_layer_norm", sizes.width)


def text_shapes(sizes: TinySizes) -> Shapes:
    """Return the table of the CLIP text encoder as SD 1.5 checkpoints hold it."""
    return clip_text_shapes(sizes.text)


def vision_shapes(sizes: TinySizes) -> Shapes:
    """Return the table of a CLIP vision tower with projection, in the naming of transformers."""
    width, patch = sizes.vision_width, sizes.vision_patch
    shapes: Shapes = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": ((sizes.vision_image // patch) ** 2 + 1, width),
    }
    for layer in range(sizes.vision_layers):
        shapes |= _clip_layer(f"vision_model.encoder.layers.{layer}", width, sizes.vision_feed_forward)
    shapes |= affine("vision_model.pre_layrnorm", width) | affine("vision_model.post_layernorm", width)
    return shapes | affine("visual_projection", sizes.vision_projection, width, bias=False)


def checkpoint_shapes(sizes: TinySizes) -> Shapes:
    """Return the table of a whole SD 1.5 checkpoint: UNet, TAESD in the place of the VAE, text encoder."""
    shapes = under("model.diffusion_model.", unet_shapes(sizes)) | under("first_stage_model.", taesd_shapes(sizes))
    return shapes | under("cond_stage_model.transformer.", text_shapes(sizes))
