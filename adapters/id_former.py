"""The ID encoder of PuLID v1.1 and of PuLID for FLUX: learned queries over five scales (docs/pulid.md, 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint
from .id_encoder import NUM_SCALES, mapping_network, mapping_sizes
from .perceiver import PerceiverLayer, Source, StackSizes, learned_queries

LAYERS_PER_SCALE = 2


@dataclass(frozen=True)
class IDFormerSizes:
    """The sizes of an `IDFormer`; the defaults are the released ones."""

    id_dim: int = 1280
    vit_dim: int = 1024
    embedding_hidden: tuple[int, int] = (1024, 1024)
    mapping_hidden: tuple[int, int] = (1024, 1024)
    dim: int = 1024
    heads: int = 16
    dim_head: int = 64
    num_id_tokens: int = 5  # for each photo
    num_queries: int = 32
    output_dim: int = 2048
    ff_mult: int = 4

    @classmethod
    def from_checkpoint(cls, file: Checkpoint, prefix: str) -> IDFormerSizes:
        """Read the sizes off the tensors under prefix; heads are 64 wide unless the metadata has `likeness.heads`.

        Raises CheckpointError if a tensor is missing or the number of heads cannot be told.
        """
        stack = StackSizes.from_checkpoint(file, prefix + "layers.", num_sources=1)
        id_dim, embedding_hidden, embedding_out = mapping_sizes(file, prefix + "id_embedding_mapping")
        vit_dim, mapping_hidden, _ = mapping_sizes(file, prefix + "mapping_0")
        return cls(
            id_dim=id_dim,
            vit_dim=vit_dim,
            embedding_hidden=embedding_hidden,
            mapping_hidden=mapping_hidden,
            dim=stack.dim,
            heads=stack.heads,
            dim_head=stack.dim_head,
            num_id_tokens=embedding_out // stack.dim,
            num_queries=file.shape(prefix + "latents", 3)[1],
            output_dim=file.shape(prefix + "proj_out", 2)[1],
            ff_mult=stack.ff_mult,
        )

    @property
    def stack(self) -> StackSizes:
        """The sizes of the layers alone."""
        return StackSizes(self.dim, NUM_SCALES * LAYERS_PER_SCALE, self.heads, self.dim_head, self.ff_mult)


class IDFormer(nn.Module):
    """32 identity tokens of one person from any number of photos."""

    def __init__(
        self,
        sizes: IDFormerSizes | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes = IDFormerSizes() if sizes is None else sizes
        place = {"operations": operations, "device": device, "dtype": dtype}
        dim = sizes.dim
        self.id_embedding_mapping = mapping_network(
            sizes.id_dim, sizes.embedding_hidden, sizes.num_id_tokens * dim, **place
        )
        for scale in range(NUM_SCALES):
            self.add_module(f"mapping_{scale}", mapping_network(sizes.vit_dim, sizes.mapping_hidden, dim, **place))
        self.latents = learned_queries(sizes.num_queries, dim, device, dtype)
        self.layers = nn.ModuleList(PerceiverLayer(sizes.stack, 1, **place) for _ in range(sizes.stack.depth))
        # A matrix that multiplies from the right, and no layer: so it is released.
        self.proj_out = nn.Parameter(torch.empty(dim, sizes.output_dim, device=device, dtype=dtype))
        if not self.proj_out.is_meta:
            nn.init.normal_(self.proj_out, std=dim**-0.5)

    def forward(self, id_cond: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """Tokens (b, 32, D) of b people.

        id_cond (b, E) or, with n photos of each person, (b, n, E); hidden holds five states (b, n·(1 + patches), W),
        the photos joined on the token axis.
        """
        assert len(hidden) == NUM_SCALES, len(hidden)
        embedded = self.id_embedding_mapping(id_cond)  # (b, 5·dim) or (b, n, 5·dim)
        id_tokens = embedded.reshape(embedded.shape[0], -1, self.sizes.dim)  # (b, 5n, dim)
        queries = self.latents.to(id_tokens).expand(id_tokens.shape[0], -1, -1)
        latents = torch.cat([queries, id_tokens], dim=1)
        for scale, state in enumerate(hidden):
            # The photos' own tokens stay as they are here: only their copies among the latents are updated.
            features = torch.cat([id_tokens, self.get_submodule(f"mapping_{scale}")(state)], dim=1)
            for layer in self.layers[scale * LAYERS_PER_SCALE : (scale + 1) * LAYERS_PER_SCALE]:
                latents = layer(latents, [Source(features)])
        return latents[:, : self.sizes.num_queries] @ self.proj_out.to(latents)
