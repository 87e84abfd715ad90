"""UniPortrait's ID embedding: face features to 16 identity tokens (paper section 3.2, released as `faceid_proj`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint
from .perceiver import PerceiverLayer, Source, StackSizes, learned_queries, two_layers


@dataclass(frozen=True)
class ResamplerSizes:
    """The sizes of an `IDResampler`; the defaults are the released ones."""

    intrinsic_dim: int = 512
    structure_dim: int = 1728
    dim: int = 768
    depth: int = 6
    heads: int = 12
    dim_head: int = 64
    num_tokens: int = 16
    output_dim: int = 768
    ff_mult: int = 4

    @classmethod
    def from_checkpoint(cls, file: Checkpoint, prefix: str) -> ResamplerSizes:
        """Read the sizes off the tensors under prefix; heads are 64 wide unless the metadata has `likeness.heads`.

        Raises CheckpointError if a tensor is missing or the number of heads cannot be told.
        """
        return cls(
            intrinsic_dim=file.shape(prefix + "proj_id.0.weight", 2)[1],
            structure_dim=file.shape(prefix + "proj_clip.0.weight", 2)[1],
            num_tokens=file.shape(prefix + "latents", 3)[1],
            output_dim=file.shape(prefix + "proj_out.weight", 2)[0],
            **vars(StackSizes.from_checkpoint(file, prefix + "layers.", num_sources=2)),
        )

    @property
    def stack(self) -> StackSizes:
        """The sizes of the layers alone."""
        return StackSizes(self.dim, self.depth, self.heads, self.dim_head, self.ff_mult)


class IDResampler(nn.Module):
    """Learned queries that gather the intrinsic and the structure features of one person into identity tokens."""

    def __init__(
        self,
        sizes: ResamplerSizes | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes = ResamplerSizes() if sizes is None else sizes
        place = {"device": device, "dtype": dtype}
        shared = {"operations": operations, **place}
        dim = sizes.dim
        self.latents = learned_queries(sizes.num_tokens, dim, device, dtype)
        self.proj_id = two_layers(sizes.intrinsic_dim, 2 * sizes.intrinsic_dim, dim, **shared)
        self.proj_clip = two_layers(sizes.structure_dim, 2 * sizes.structure_dim, dim, **shared)
        self.layers = nn.ModuleList(PerceiverLayer(sizes.stack, 2, **shared) for _ in range(sizes.depth))
        self.proj_out = operations.Linear(dim, sizes.output_dim, **place)
        self.norm_out = operations.LayerNorm(sizes.output_dim, **place)

    def forward(
        self,
        intrinsic: Tensor,
        structure: Tensor,
        structure_scale: float | Tensor = 1.0,
        intrinsic_mask: Tensor | None = None,
        structure_mask: Tensor | None = None,
    ) -> Tensor:
        """Identity tokens (b, m, D) of intrinsic (b, nx, di) and structure (b, ny, ds) features.

        structure_scale β multiplies the structure branch: a number, or (b, 1, 1) for one per sample. The number 0
        leaves the branch out. The masks (b, n, 1) keep tokens where 1 and drop them where 0; several references of
        one person are concatenated on the token axis.
        """
        features_id = self.proj_id(intrinsic)
        if isinstance(structure_scale, Tensor):
            structure_scale = structure_scale.to(features_id)
        sources: list[Source | None] = [Source(features_id, mask=intrinsic_mask), None]
        if isinstance(structure_scale, Tensor) or structure_scale != 0:
            sources[1] = Source(self.proj_clip(structure), structure_scale, structure_mask)
        tokens = self.latents.to(features_id).expand(features_id.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, sources)
        return self.norm_out(self.proj_out(tokens))
