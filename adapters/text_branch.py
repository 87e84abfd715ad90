"""UniID's text branch: a face becomes words for both of SDXL's text encoders (docs/uniid.md, 3).

Letters: n tokens of a person, D1 and D2 the widths of the two text encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint
from .features import map_tokens
from .perceiver import HEADS_KEY, PerceiverLayer, Source, StackSizes, two_layers

ENCODERS = (1, 2)  # CLIP-L and CLIP-G, as released names count them


def heads_key(encoder: int) -> str:
    """The metadata entry with the number of heads of one encoder's resampler, where heads are not 64 wide."""
    return f"{HEADS_KEY}_{encoder}"


@dataclass(frozen=True)
class TextBranchSizes:
    """The sizes of a `TextBranch`; the defaults are the released ones. What differs by encoder is a pair."""

    stacks: tuple[StackSizes, StackSizes] = (StackSizes(768, 4, 12), StackSizes(1280, 4, 20))
    num_tokens: int = 3
    face_dim: int = 512  # of the face backbone's vector
    map_dim: int = 512  # channels of its last map
    hidden: int = 1024

    @property
    def widths(self) -> tuple[int, int]:
        """D1 and D2."""
        first, second = self.stacks
        return first.dim, second.dim

    @classmethod
    def from_checkpoint(cls, file: Checkpoint, prefix: str) -> TextBranchSizes:
        """Read the sizes off the tensors under prefix; heads are 64 wide unless the metadata has their number.

        Raises CheckpointError if a tensor is missing or the number of heads cannot be told.
        """
        first, second = (
            StackSizes.from_checkpoint(file, f"{prefix}text_resampler_{k}.layers.", 1, heads_key(k)) for k in ENCODERS
        )
        hidden, face_dim = file.shape(f"{prefix}proj_1.proj.0.weight", 2)
        return cls(
            stacks=(first, second),
            num_tokens=file.shape(f"{prefix}proj_1.proj.2.weight", 2)[0] // first.dim,
            face_dim=face_dim,
            map_dim=file.shape(f"{prefix}text_resampler_1.proj_in.weight", 2)[1],
            hidden=hidden,
        )


class TextIDResampler(nn.Module):
    """Queries of one text encoder's width gather the tokens of the face backbone's last map."""

    def __init__(
        self,
        sizes: StackSizes,
        map_dim: int,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.proj_in = operations.Linear(map_dim, sizes.dim, **place)
        self.layers = nn.ModuleList(PerceiverLayer(sizes, 1, operations, **place) for _ in range(sizes.depth))
        self.proj_out = operations.Linear(sizes.dim, sizes.dim, **place)
        self.norm_out = operations.LayerNorm(sizes.dim, **place)

    def forward(self, face_tokens: Tensor, queries: Tensor) -> Tensor:
        """Tokens (B, n, Dk) from face tokens (B, 49, 512) and queries (B, n, Dk)."""
        sources = [Source(self.proj_in(face_tokens))]
        for layer in self.layers:
            queries = layer(queries, sources)
        return self.norm_out(self.proj_out(queries))


class TextBranch(nn.Module):
    """n words of a person for each text encoder, under the released names."""

    def __init__(
        self,
        sizes: TextBranchSizes | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes = TextBranchSizes() if sizes is None else sizes
        place = {"device": device, "dtype": dtype}
        for k, stack in zip(ENCODERS, sizes.stacks, strict=True):
            projection = two_layers(sizes.face_dim, sizes.hidden, sizes.num_tokens * stack.dim, operations, **place)
            self.add_module(f"proj_{k}", nn.ModuleDict({"proj": projection}))
            self.add_module(f"norm_{k}", operations.LayerNorm(stack.dim, **place))
            self.add_module(f"text_resampler_{k}", TextIDResampler(stack, sizes.map_dim, operations, **place))

    def forward(self, face: Tensor, last_map: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, n, D1) and (B, n, D2) of B photos, each on its own.

        face (B, 512) is the backbone's vector, not normalised; last_map (B, 512, 7, 7) its deepest map.
        """
        face_tokens = map_tokens(last_map)
        first, second = (
            self.get_submodule(f"text_resampler_{k}")(face_tokens, self.queries(face, k)) for k in ENCODERS
        )
        return first, second

    def queries(self, face: Tensor, encoder: int) -> Tensor:
        """What the resampler of encoder 1 or 2 starts from, (B, n, Dk)."""
        projected = self.get_submodule(f"proj_{encoder}.proj")(face)
        return self.get_submodule(f"norm_{encoder}")(projected.unflatten(-1, (self.sizes.num_tokens, -1)))
