"""The image prompt of IP-Adapter: a CLIP image embedding as a few context tokens (released as `image_proj`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Operations


class ImageProjection(nn.Module):
    """One linear layer to num_tokens tokens, then LayerNorm."""

    def __init__(
        self,
        embed_dim: int = 1024,
        num_tokens: int = 4,
        context: int = 768,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = operations.Linear(embed_dim, num_tokens * context, device=device, dtype=dtype)
        self.norm = operations.LayerNorm(context, device=device, dtype=dtype)

    def forward(self, image_embed: Tensor) -> Tensor:
        """CLIP image embeds (b, E), after the visual projection, to IP tokens (b, num_tokens, D).

        The negative half gets the tokens of an all-zero embed, which are not zero.
        """
        return self.norm(self.proj(image_embed).unflatten(-1, (self.num_tokens, -1)))
