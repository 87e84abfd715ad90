"""UniID's image resampler: the four maps of a face backbone become ID tokens (docs/uniid.md, 5).

Letters: m ID tokens, D width of the UNet's context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint
from .features import map_tokens, shallow_tokens
from .perceiver import PerceiverLayer, Source, StackSizes, learned_queries

SHALLOW_SIDE = 16  # the three shallow maps are brought to 16 x 16


@dataclass(frozen=True)
class ImageResamplerSizes:
    """The sizes of an `ImageResampler`; the defaults are the released ones."""

    stack: StackSizes = StackSizes(768, 6, 12)
    num_tokens: int = 25
    shallow_dim: int = 448  # channels of the backbone's first three maps together
    map_dim: int = 512  # channels of the last one
    output_dim: int = 2048

    @classmethod
    def from_checkpoint(cls, file: Checkpoint, prefix: str, latents: str) -> ImageResamplerSizes:
        """Read the sizes off the tensors under prefix and the learned queries, which released files keep elsewhere.

        Heads are 64 wide unless the metadata has `likeness.heads`. Raises CheckpointError if a tensor is missing or the
        number of heads cannot be told.
        """
        return cls(
            stack=StackSizes.from_checkpoint(file, prefix + "layers.", num_sources=2),
            num_tokens=file.shape(latents, 3)[1],
            shallow_dim=file.shape(prefix + "proj_face_recog_model_layers.0.weight", 2)[1],
            map_dim=file.shape(prefix + "proj_face_recog_model_layers.1.weight", 2)[1],
            output_dim=file.shape(prefix + "proj_out.weight", 2)[0],
        )


class ImageResampler(nn.Module):
    """Learned queries that read the deep map and the shallow maps in turn.

    Untrained it gives tokens that are exactly zero: its last linear layer begins with zeros.
    """

    def __init__(
        self,
        sizes: ImageResamplerSizes | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes = ImageResamplerSizes() if sizes is None else sizes
        place = {"device": device, "dtype": dtype}
        stack = sizes.stack
        self.latents = learned_queries(sizes.num_tokens, stack.dim, device, dtype)
        self.proj_face_recog_model_layers = nn.ModuleList(
            operations.Linear(width, stack.dim, **place) for width in (sizes.shallow_dim, sizes.map_dim)
        )
        self.layers = nn.ModuleList(PerceiverLayer(stack, 2, operations, **place) for _ in range(stack.depth))
        self.proj_out = operations.Linear(stack.dim, sizes.output_dim, **place)
        self.norm_out = operations.LayerNorm(sizes.output_dim, **place)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """ID tokens (B, m, D) of B photos, each on its own; of nobody for all-zero maps.

        maps: the backbone's four, (B, 64, 56, 56) to (B, 512, 7, 7).
        """
        of_shallow, of_deep = self.proj_face_recog_model_layers
        deep = Source(of_deep(map_tokens(maps[-1])))
        shallow = Source(of_shallow(shallow_tokens(maps, SHALLOW_SIDE)))
        tokens = self.latents.to(deep.tokens).expand(deep.tokens.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, [deep, shallow])
        return self.norm_out(self.proj_out(tokens))
