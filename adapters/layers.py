"""The attention layers of the SD 1.5 UNet: the numbers in adapter files, diffusers' names and ComfyUI's blocks.

Files number the layers as diffusers lists its attention processors: down, up, and the middle block last, although it
runs between them. Even numbers are self-attention, odd ones the cross-attention of the same transformer block.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer and its addresses in the two hosts."""

    number: int
    kind: str  # "attn1" (self) or "attn2" (cross)
    diffusers: str  # module path in diffusers' UNet
    block: str  # ComfyUI's block name: "input", "output" or "middle"
    block_id: int  # ComfyUI's block number; the index inside the block is always 0
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


def _sd15_blocks() -> list[tuple[str, str, int, str, int]]:
    """Diffusers path, ComfyUI block, block id, ComfyUI path and level of the 16 transformer blocks, in file order."""
    down = [
        (f"down_blocks.{b}.attentions.{a}", "input", 1 + 3 * b + a, f"input_blocks.{1 + 3 * b + a}.1", b)
        for b in range(3)
        for a in range(2)
    ]
    up = [
        (f"up_blocks.{b}.attentions.{a}", "output", 3 * b + a, f"output_blocks.{3 * b + a}.1", 3 - b)
        for b in range(1, 4)
        for a in range(3)
    ]
    return [*down, *up, ("mid_block.attentions.0", "middle", 0, "middle_block.1", 3)]


SD15_LAYERS: tuple[AttentionLayer, ...] = tuple(
    AttentionLayer(
        number=2 * position + cross,
        kind=kind,
        diffusers=f"{diffusers}.transformer_blocks.0.{kind}",
        block=block,
        block_id=block_id,
        weight_prefix=f"diffusion_model.{comfyui}.transformer_blocks.0.{kind}.",
        level=level,
    )
    for position, (diffusers, block, block_id, comfyui, level) in enumerate(_sd15_blocks())
    for cross, kind in enumerate(("attn1", "attn2"))
)
