"""A person's words in the prompt: norms of ordinary names, and a place behind the first position (docs/uniid.md, 4).

Letters: n words of a person, D = D1 + D2 the widths of both text encoders together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 77  # positions that a text encoder reads at a time; longer prompts are several of these


def column_means(name_tokens: Sequence[Sequence[int]], table: Tensor, num_tokens: int) -> Tensor:
    """The mean first, second, ... word of the names, as rows (n, width) of an encoder's table of token embeddings.

    name_tokens: the token numbers of each name, without those that begin and end a text; the first n count. table
    (vocabulary, width). A name with fewer tokens does not take part in the later means.
    Raises ValueError if no name is long enough.
    """
    means = []
    for position in range(num_tokens):
        tokens = [name[position] for name in name_tokens if len(name) > position]
        if not tokens:
            raise ValueError(
                f"The list of names has no name of {position + 1} or more tokens, but this UniID has {num_tokens} text "
                "tokens for each person. Add longer names, such as a first name with a surname."
            )
        means.append(table[torch.tensor(tokens, device=table.device)].mean(0))
    return torch.stack(means)


def token_norms(tokens: Tensor, split: int) -> Tensor:
    """Lengths (..., n, 2) of both encoders' parts of tokens (..., n, D), which `split` = D1 channels tell apart."""
    return torch.stack([part.norm(dim=-1) for part in _parts(tokens, split)], dim=-1)


def match_norms(tokens: Tensor, norms: Tensor, split: int) -> Tensor:
    """The tokens (..., n, D) with other lengths: norms (n, 2), one for each encoder's part.

    A part of zeros, which has no direction, stays zero. Raises ValueError if there is not a pair of norms per token.
    """
    if tuple(norms.shape) != (tokens.shape[-2], 2):
        raise ValueError(
            f"The name norms are {tuple(norms.shape)}, but a person has {tokens.shape[-2]} text tokens: they were "
            "computed for another UniID. Compute them again with Name Norms."
        )
    working = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    norms = norms.to(working)
    parts = [F.normalize(part, dim=-1) * norms[:, k, None] for k, part in enumerate(_parts(working, split))]
    return torch.cat(parts, dim=-1).to(tokens.dtype)


def insert_tokens(embeds: Tensor, tokens: Tensor) -> Tensor:
    """The prompt (B, L, D) with tokens (t, D) or (B, t, D) behind its first position; the shape stays.

    The rest of the first chunk of 77 moves on and its last t positions fall off; later chunks stay where they are.
    Raises ValueError if the tokens are of another width or do not fit.
    """
    if tokens.shape[-1] != embeds.shape[-1]:
        raise ValueError(
            f"The text tokens are {tokens.shape[-1]} wide and the prompt {embeds.shape[-1]}: they belong to different "
            "base models. UniID needs a prompt made with the CLIP of an SDXL model."
        )
    first, rest = embeds[:, :CHUNK], embeds[:, CHUNK:]
    num_tokens = tokens.shape[-2]
    if num_tokens >= first.shape[1]:
        raise ValueError(f"{num_tokens} text tokens do not fit into a prompt of {first.shape[1]} positions.")
    inserted = tokens.to(embeds).expand(embeds.shape[0], -1, -1)
    return torch.cat([first[:, :1], inserted, first[:, 1 : first.shape[1] - num_tokens], rest], dim=1)


def _parts(tokens: Tensor, split: int) -> tuple[Tensor, Tensor]:
    return tokens[..., :split], tokens[..., split:]
