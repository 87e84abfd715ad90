"""PuLID's losses beside the diffusion loss (docs/pulid.md, 8; arXiv 2404.16022, section 3.3): alignment and identity.

Letters: B samples, h heads, N image positions, L text tokens, d channels of a head, D length of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SEMANTIC, LAYOUT = 0.6, 0.1  # the paper's weights of the two parts of the alignment loss
MEAN_SQUARE = "mean square"
# The paper writes a norm and does not say over what. A literal norm was seen to outweigh the diffusion loss a
# hundredfold, so the mean over all elements is what is meant here; all are there to be compared.
REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    MEAN_SQUARE: lambda difference: difference.square().mean(),
    "norm of each sample": lambda difference: difference.flatten(1).norm(dim=1).mean(),
    "norm": lambda difference: difference.norm(),
}


def text_response(queries: Tensor, keys: Tensor) -> Tensor:
    """What each text token finds in the picture: softmax(K·Qᵀ/√d)·Q over image positions, (B, h, L, d) float32.

    queries (B, h, N, d) are a cross-attention layer's, keys (B, h, L, d) those of the text.
    """
    queries, keys = queries.float(), keys.float()
    return F.scaled_dot_product_attention(keys, queries, queries)


def alignment_loss(
    queries: Tensor,
    plain_queries: Tensor,
    keys: Tensor,
    semantic: float = SEMANTIC,
    layout: float = LAYOUT,
    reduction: str = MEAN_SQUARE,
) -> Tensor:
    """How far the identity moves the picture away from what the prompt alone draws, in one layer and step: a number.

    queries and plain_queries (B, h, N, d) are those with the identity and without it, keys (B, h, L, d) the text's in
    both. `semantic` weighs the difference of the responses, `layout` that of the queries themselves.
    """
    reduced, plain_queries = REDUCTIONS[reduction], plain_queries.detach()
    responses = text_response(queries, keys) - text_response(plain_queries, keys)
    return semantic * reduced(responses) + layout * reduced(queries.float() - plain_queries.float())


def identity_loss(reference: Tensor, generated: Tensor) -> Tensor:
    """1 - cosine of the face embeddings (B, D) of the photo and of the picture that was drawn, mean over B."""
    return 1.0 - torch.cosine_similarity(reference.detach(), generated, dim=-1).mean()
