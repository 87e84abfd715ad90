"""How large the tiny models are. Only widths differ from the released models: every block, layer and key is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of a UNet of the family of SD 1.5 and SDXL, and of its ControlNet; the defaults are the tiny SD 1.5's.

    GroupNorm wants multiples of 32 channels. Two channels to a group at least: over one channel alone it takes out the
    mean of the noise, which then stays in the picture as a cast of colour. SD 1.5 has 8 heads at every level.
    """

    model_channels: int = 64
    channel_mult: tuple[int, ...] = (1, 1, 1, 1)
    num_res_blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)  # transformers in each place of a level
    middle_depth: int = 1
    linear: bool = False  # projections around the transformers: linear in SDXL, convolutions in SD 1.5
    labels: int = 0  # SDXL's pooled text and six numbers about the picture's size; 0 for SD 1.5, which is told nothing
    latent_channels: int = 8  # twice SD 1.5's: pictures are small, and a face must fit into few cells
    hint_channels: int = 3
    context: int = 64

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the UNet's levels, finest first."""
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Channels of the attention layers in the released order: down, up, middle; self and cross alternate."""
        levels = list(zip(self.widths, self.depths, strict=True))
        down = [width for width, depth in levels for _ in range(self.num_res_blocks * depth)]
        up = [width for width, depth in reversed(levels) for _ in range((self.num_res_blocks + 1) * depth)]
        middle = [self.widths[-1]] * self.middle_depth
        return tuple(width for width in [*down, *up, *middle] for _ in ("attn1", "attn2"))


@dataclass(frozen=True)
class TextSizes:
    """Sizes of a CLIP text encoder. Tokenizer and vocabulary are always the real ones, and so are 77 positions."""

    width: int = 32
    layers: int = 3  # SDXL takes the last but one, and ComfyUI wants one more
    feed_forward: int = 64
    vocabulary: int = 49408
    positions: int = 77


@dataclass(frozen=True)
class TinySizes(UNetSizes):
    """Sizes of a whole set of models: SD 1.5, its ControlNet, CLIP vision and the files of UniPortrait.

    The defaults are the tiny set; `RELEASED_SIZES` gives the real one, for which the same tables hold.
    """

    # CLIP text encoder; its width is the context width of the UNet. Tokenizer and vocabulary are the real ones.
    # Head counts are not in the files: `models_pack` takes text heads of 16 and vision heads of 32 channels.
    text_layers: int = 2
    text_feed_forward: int = 128
    vocabulary: int = 49408
    text_positions: int = 77

    # CLIP vision tower: a grid of (image / patch)² tokens, 16 x 16 as in ViT-H
    vision_width: int = 64
    vision_layers: int = 3
    vision_feed_forward: int = 128
    vision_projection: int = 48
    vision_image: int = 224
    vision_patch: int = 14

    # Face recognition backbone IR-101: 49 blocks in four stages
    backbone_widths: tuple[int, int, int, int] = (8, 16, 24, 32)
    backbone_units: tuple[int, int, int, int] = (3, 13, 30, 3)
    embedding: int = 64

    # ID resampler and adapter. Heads are 64 wide in the released files, so a .bin file allows no other width.
    id_tokens: int = 16
    ip_tokens: int = 4
    resampler_width: int = 64
    resampler_heads: int = 2
    resampler_head_width: int = 64
    resampler_layers: int = 6
    lora_rank: int = 8

    @property
    def text(self) -> TextSizes:
        """The text encoder alone."""
        return TextSizes(self.context, self.text_layers, self.text_feed_forward, self.vocabulary, self.text_positions)

    @property
    def structure_width(self) -> int:
        """Channels of the structure features: three shallow backbone maps and the CLIP tokens."""
        return sum(self.backbone_widths[:3]) + self.vision_width


RELEASED_SIZES = TinySizes(
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    latent_channels=4,
    context=768,
    text_layers=12,
    text_feed_forward=3072,
    vision_width=1280,
    vision_layers=32,
    vision_feed_forward=5120,
    vision_projection=1024,
    backbone_widths=(64, 128, 256, 512),
    embedding=512,
    resampler_width=768,
    resampler_heads=12,
    lora_rank=128,
)
