"""How large the tiny models for PuLID are: SDXL, FLUX, what sees photos. Only widths differ from the released ones."""

from __future__ import annotations

from dataclasses import dataclass

from ..adapters.flux_attention import FluxAttentionSizes
from ..adapters.id_encoder import IDEncoderSizes
from ..adapters.id_former import IDFormerSizes
from ..adapters.layers import flux_places
from ..adapters.pulid import PuLIDSizes
from ..faces.bisenet import BiSeNetSizes
from .tiny_sizes import TextSizes, UNetSizes

SIZE_NUMBERS = 6 * 256  # what SDXL is told about the picture's size, beside the pooled text


@dataclass(frozen=True)
class T5Sizes:
    """Sizes of FLUX's text encoder T5; tokenizer and vocabulary are the real ones."""

    width: int = 32
    layers: int = 2
    heads: int = 2
    head_width: int = 16
    feed_forward: int = 64
    vocabulary: int = 32128
    buckets: int = 32  # of distances between words


@dataclass(frozen=True)
class FluxSizes:
    """Sizes of FLUX with all its blocks, and of its text encoders, which set the widths of text and label.

    `models_pack` takes heads of 16 channels.
    """

    width: int = 64
    head_width: int = 16
    double_blocks: int = 19
    single_blocks: int = 38
    feed_forward: int = 128
    latent_channels: int = 16
    clip: TextSizes = TextSizes()
    t5: T5Sizes = T5Sizes()


@dataclass(frozen=True)
class EvaSizes:
    """Sizes of the EVA02-CLIP tower; its heads are `head_width` wide, as the rotary constants in its file tell."""

    width: int = 32
    head_width: int = 16
    layers: int = 6  # a multiple of six: hidden states are taken after each sixth but the last
    feed_forward: int = 48
    embedding: int = 24
    image: int = 112
    patch: int = 14


@dataclass(frozen=True)
class PulidSizes:
    """Sizes of a whole set: SDXL with its text encoders, FLUX, what sees photos, and the ID encoders of PuLID.

    The defaults are the tiny set; `RELEASED_PULID_SIZES` gives the real one, for which the same tables hold.
    """

    sdxl: UNetSizes = UNetSizes(
        channel_mult=(1, 1, 1),
        depths=(0, 2, 10),
        middle_depth=10,
        linear=True,
        labels=32 + SIZE_NUMBERS,
        latent_channels=4,
        context=64,
    )
    clip_l: TextSizes = TextSizes()
    clip_g: TextSizes = TextSizes()
    flux: FluxSizes = FluxSizes()
    eva: EvaSizes = EvaSizes()
    parser: BiSeNetSizes = BiSeNetSizes(stem=4, stages=(4, 6, 6, 8), context=6, fusion=6, bottleneck=2, head=5)
    recogniser: int = 12  # numbers in an embedding: `tiny_recogniser`
    hidden: int = 32  # width inside the ID encoders
    head_width: int = 16
    block: FluxAttentionSizes = FluxAttentionSizes(dim=64, context=64, heads=4, dim_head=16)

    def adapter(self, edition: str) -> PuLIDSizes:
        """Sizes of PuLID's file of an edition: "pulid-v1", "pulid-v1.1" or "pulid-flux"."""
        seen, hidden = self.recogniser + self.eva.embedding, (self.hidden, self.hidden)
        if edition == "pulid-v1":
            encoder = IDEncoderSizes(seen, self.eva.width, hidden, hidden, output_dim=self.sdxl.context)
            return PuLIDSizes(edition, encoder, self.sdxl.layer_widths)
        former = IDFormerSizes(
            id_dim=seen,
            vit_dim=self.eva.width,
            embedding_hidden=hidden,
            mapping_hidden=hidden,
            dim=self.hidden,
            heads=self.hidden // self.head_width,
            dim_head=self.head_width,
            output_dim=self.block.context if edition == "pulid-flux" else self.sdxl.context,
        )
        if edition == "pulid-flux":
            places = flux_places(self.flux.double_blocks, self.flux.single_blocks)
            return PuLIDSizes(edition, former, block=self.block, num_blocks=len(places))
        return PuLIDSizes(edition, former, self.sdxl.layer_widths)


RELEASED_PULID_SIZES = PulidSizes(
    sdxl=UNetSizes(
        model_channels=320,
        channel_mult=(1, 2, 4),
        depths=(0, 2, 10),
        middle_depth=10,
        linear=True,
        labels=1280 + SIZE_NUMBERS,
        latent_channels=4,
        context=2048,
    ),
    clip_l=TextSizes(width=768, layers=12, feed_forward=3072),
    clip_g=TextSizes(width=1280, layers=32, feed_forward=5120),
    flux=FluxSizes(
        width=3072,
        head_width=128,
        feed_forward=12288,
        clip=TextSizes(width=768, layers=12, feed_forward=3072),
        t5=T5Sizes(width=4096, layers=24, heads=64, head_width=64, feed_forward=10240),
    ),
    eva=EvaSizes(width=1024, head_width=64, layers=24, feed_forward=2730, embedding=768, image=336),
    parser=BiSeNetSizes(),
    recogniser=512,
    hidden=1024,
    head_width=64,
    block=FluxAttentionSizes(),
)
