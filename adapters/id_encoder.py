"""PuLID v1's ID encoder: one photo's face features to ten identity tokens (docs/pulid.md, 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Operations
from .checkpoint import Checkpoint

NUM_SCALES = 5  # hidden states of the EVA-CLIP tower that both encoders of PuLID read


def mapping_network(
    in_features: int,
    hidden: tuple[int, int],
    out_features: int,
    operations: Operations = nn,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Three linear layers with LayerNorm and LeakyReLU between them; PuLID's encoders are full of these."""
    place = {"device": device, "dtype": dtype}
    first, second = hidden
    return nn.Sequential(
        operations.Linear(in_features, first, **place),
        operations.LayerNorm(first, **place),
        nn.LeakyReLU(),
        operations.Linear(first, second, **place),
        operations.LayerNorm(second, **place),
        nn.LeakyReLU(),
        operations.Linear(second, out_features, **place),
    )


def mapping_sizes(file: Checkpoint, prefix: str) -> tuple[int, tuple[int, int], int]:
    """In, hidden and out features of the `mapping_network` under prefix. Raises CheckpointError if it is not whole."""
    first, in_features = file.shape(prefix + ".0.weight", 2)
    second, _ = file.shape(prefix + ".3.weight", 2)
    out_features, _ = file.shape(prefix + ".6.weight", 2)
    return in_features, (first, second), out_features


@dataclass(frozen=True)
class IDEncoderSizes:
    """The sizes of an `IDEncoder`; the defaults are the released ones."""

    id_dim: int = 1280  # ArcFace's 512 and EVA-CLIP's 768
    vit_dim: int = 1024
    body_hidden: tuple[int, int] = (1024, 1024)
    mapping_hidden: tuple[int, int] = (1024, 1024)
    num_tokens: int = 5
    output_dim: int = 2048

    @classmethod
    def from_checkpoint(cls, file: Checkpoint, prefix: str) -> IDEncoderSizes:
        """Read the sizes off the tensors under prefix. Raises CheckpointError if one is missing."""
        id_dim, body_hidden, body_out = mapping_sizes(file, prefix + "body")
        vit_dim, mapping_hidden, output_dim = mapping_sizes(file, prefix + "mapping_0")
        return cls(id_dim, vit_dim, body_hidden, mapping_hidden, body_out // output_dim, output_dim)


class IDEncoder(nn.Module):
    """Five global tokens of the condition, and one local token of each of the tower's five hidden states."""

    def __init__(
        self,
        sizes: IDEncoderSizes | None = None,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes = IDEncoderSizes() if sizes is None else sizes
        place = {"operations": operations, "device": device, "dtype": dtype}
        self.body = mapping_network(sizes.id_dim, sizes.body_hidden, sizes.num_tokens * sizes.output_dim, **place)
        for scale in range(NUM_SCALES):
            for name in ("mapping", "mapping_patch"):
                network = mapping_network(sizes.vit_dim, sizes.mapping_hidden, sizes.output_dim, **place)
                self.add_module(f"{name}_{scale}", network)

    def forward(self, id_cond: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """Tokens (b, 10, D), the five global ones first, of b photos, each on its own.

        id_cond (b, E) as `references.id_condition` makes it; hidden holds five states (b, 1 + patches, W), class token
        first.
        """
        assert len(hidden) == NUM_SCALES, len(hidden)
        tokens = [self.body(id_cond).unflatten(-1, (self.sizes.num_tokens, -1))]  # (b, 5, D)
        for scale, state in enumerate(hidden):
            of_class = self.get_submodule(f"mapping_{scale}")(state[:, :1])
            of_patches = self.get_submodule(f"mapping_patch_{scale}")(state[:, 1:])
            tokens.append(of_class + of_patches.mean(1, keepdim=True))
        return torch.cat(tokens, dim=1)
