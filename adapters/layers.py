"""Where adapters attach: the attention layers of the SD 1.5 and SDXL UNets, and the blocks of FLUX.

Files number a UNet's layers as diffusers lists its attention processors: down, up, and the middle block last, although
it runs between them. Even numbers are self-attention, odd ones the cross-attention of the same transformer block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer and its addresses in the two hosts."""

    number: int
    kind: str  # "attn1" (self) or "attn2" (cross)
    diffusers: str  # module path in diffusers' UNet
    block: str  # ComfyUI's block name: "input", "output" or "middle"
    block_id: int  # ComfyUI's block number; 0 for the middle block, although its weights live under middle_block.1
    index: int  # which transformer of that block; SD 1.5 has one in each
    weight_prefix: str  # ComfyUI's patch keys begin with it, e.g. weight_prefix + "to_q.weight"
    level: int  # stride-2 convolutions between the latent and this layer

    @property
    def is_cross(self) -> bool:
        """Whether the layer attends to the text."""
        return self.kind == "attn2"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The layer's (h, w) for a latent of that height and width; each stride-2 convolution rounds up."""
        step = 2**self.level
        return -(-height // step), -(-width // step)


@dataclass(frozen=True)
class _Transformers:
    """A stack of transformer blocks in one place of a UNet."""

    diffusers: str
    block: str
    block_id: int
    comfyui: str
    level: int
    depth: int = 1


def _numbered(places: Iterable[_Transformers]) -> tuple[AttentionLayer, ...]:
    """The layers of all places in file order: each transformer has a self- and a cross-attention."""
    transformers = [(place, index) for place in places for index in range(place.depth)]
    return tuple(
        AttentionLayer(
            number=2 * position + cross,
            kind=kind,
            diffusers=f"{place.diffusers}.transformer_blocks.{index}.{kind}",
            block=place.block,
            block_id=place.block_id,
            index=index,
            weight_prefix=f"diffusion_model.{place.comfyui}.transformer_blocks.{index}.{kind}.",
            level=place.level,
        )
        for position, (place, index) in enumerate(transformers)
        for cross, kind in enumerate(("attn1", "attn2"))
    )


def _sd15_places() -> list[_Transformers]:
    down = [
        _Transformers(
            f"down_blocks.{b}.attentions.{a}", "input", 1 + 3 * b + a, f"input_blocks.{1 + 3 * b + a}.1", level=b
        )
        for b in range(3)
        for a in range(2)
    ]
    up = [
        _Transformers(f"up_blocks.{b}.attentions.{a}", "output", 3 * b + a, f"output_blocks.{3 * b + a}.1", level=3 - b)
        for b in range(1, 4)
        for a in range(3)
    ]
    return [*down, *up, _Transformers("mid_block.attentions.0", "middle", 0, "middle_block.1", level=3)]


def sdxl_layers(first_depth: int = 2, second_depth: int = 10) -> tuple[AttentionLayer, ...]:
    """The layers of SDXL's UNet, in file order: three levels, of which the first has no attention.

    first_depth transformers stand in each place of the second level, second_depth in each of the third and in the
    middle: 2 and 10 in SDXL, which makes 140 layers. Tiny models of the same layout have fewer.
    """
    depths = {1: first_depth, 2: second_depth}
    down = [
        _Transformers(
            f"down_blocks.{b}.attentions.{a}", "input", 1 + 3 * b + a, f"input_blocks.{1 + 3 * b + a}.1", b, depths[b]
        )
        for b in (1, 2)
        for a in range(2)
    ]
    up = [
        _Transformers(
            f"up_blocks.{b}.attentions.{a}", "output", 3 * b + a, f"output_blocks.{3 * b + a}.1", 2 - b, depths[2 - b]
        )
        for b in (0, 1)
        for a in range(3)
    ]
    middle = _Transformers("mid_block.attentions.0", "middle", 0, "middle_block.1", 2, second_depth)
    return _numbered([*down, *up, middle])


def sdxl_layers_of_widths(widths: Sequence[int]) -> tuple[AttentionLayer, ...] | None:
    """The layers of the SDXL-shaped UNet whose cross-attention layers have these widths in file order; None if none.

    All layers of a level are equally wide. Where both levels are, several layouts can have as many layers, and the one
    with the fewest transformers at the second level is returned.
    """
    for first_depth in range(1, len(widths)):
        second_depth, rest = divmod(len(widths) - 5 * first_depth, 6)  # 2 places down and 3 up; 2, 3 and the middle
        if second_depth < 1 or rest:
            continue
        layers = sdxl_layers(first_depth, second_depth)
        cross = [layer for layer in layers if layer.is_cross]
        if len({(layer.level, width) for layer, width in zip(cross, widths, strict=True)}) == 2:
            return layers
    return None


@dataclass(frozen=True)
class FluxPlace:
    """A block of FLUX behind which an adapter adds to the image tokens."""

    kind: str  # ComfyUI's "double_block" or "single_block"
    index: int


def flux_places(num_double: int = 19, num_single: int = 38) -> tuple[FluxPlace, ...]:
    """PuLID's places in running order: behind every second double and every fourth single block, the first included."""
    double = [FluxPlace("double_block", index) for index in range(0, num_double, 2)]
    return (*double, *(FluxPlace("single_block", index) for index in range(0, num_single, 4)))


SD15_LAYERS: tuple[AttentionLayer, ...] = _numbered(_sd15_places())
SDXL_LAYERS: tuple[AttentionLayer, ...] = sdxl_layers()
