"""From the face networks' outputs to the tokens of one person, for PuLID: one or several photos, and nobody.

k is the number of photos of ONE person.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .id_encoder import IDEncoder
from .id_former import IDFormer

JOININGS = ("published", "all tokens", "mean")


def id_condition(face_embedding: Tensor, projected: Tensor) -> Tensor:
    """What both encoders call `id_cond`, (k, 512 + 768).

    face_embedding (k, 512) is ArcFace's embedding as the network gives it, not normalised; projected (k, 768) is
    EVA-CLIP's projected class token, which is divided by its length here.
    """
    return torch.cat([face_embedding, F.normalize(projected, dim=-1).to(face_embedding)], dim=-1)


def person_tokens(
    encoder: IDEncoder | IDFormer,
    id_cond: Tensor,
    hidden: Sequence[Tensor],
    joining: str = "published",
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """An identity's tokens, "cond" and "uncond", each (m, D); the latter are the encoder's answer to zeros.

    id_cond (k, E); hidden holds five states (k, 1 + patches, W). How several photos become one person:

    - "published": v1 encodes each photo alone and appends to the first one's ten tokens the five global tokens of each
      other photo (its application's "ID mix" is off), so m is 10 + 5·(k - 1); v1.1 and FLUX read all photos together,
      m is 32.
    - "all tokens": v1 appends all ten tokens of each photo ("ID mix" on), m is 10·k; v1.1 and FLUX as published.
    - "mean": each photo is encoded alone and the tokens are averaged, as a common ComfyUI port does.

    v1's unconditional tokens are joined in the same way, so that both guidance halves are equally long; those of v1.1
    and FLUX are always those of one photo.

    noise: nothing published; the same port can put uniform numbers of 0 to `noise` in the place of nobody's zeros. Here
    they are drawn on the CPU from `seed`, and only there (docs/pulid.md, 10, ComfyUI port 5).

    Raises:
        ValueError: no photo, or another joining.
    """
    if joining not in JOININGS:
        raise ValueError(f'photos can be joined by {", ".join(JOININGS)}, not by "{joining}".')
    if not len(id_cond):
        raise ValueError("a person needs at least one photo.")
    assert all(len(state) == len(id_cond) for state in hidden), [tuple(state.shape) for state in hidden]
    nobody = encoder(*_nobody(id_cond[:1], [state[:1] for state in hidden], noise, seed))
    if joining == "mean":
        return {"cond": encoder(id_cond, hidden).mean(0), "uncond": nobody[0]}
    if isinstance(encoder, IDFormer):
        together = encoder(id_cond[None], [state.flatten(0, 1)[None] for state in hidden])
        return {"cond": together[0], "uncond": nobody[0]}
    kept = None if joining == "all tokens" else encoder.sizes.num_tokens
    alone = encoder(id_cond, hidden)
    return {"cond": _append(alone, kept), "uncond": _append(nobody.expand(len(id_cond), -1, -1), kept)}


def _nobody(id_cond: Tensor, hidden: Sequence[Tensor], noise: float, seed: int) -> tuple[Tensor, list[Tensor]]:
    """What the encoder reads of nobody, shaped like one photo's features: zeros, or weak noise."""
    if noise == 0:
        return torch.zeros_like(id_cond), [torch.zeros_like(state) for state in hidden]
    generator = torch.Generator().manual_seed(seed)
    drawn = [noise * torch.rand(like.shape, generator=generator).to(like) for like in (id_cond, *hidden)]
    return drawn[0], drawn[1:]


def _append(tokens: Tensor, kept: int | None) -> Tensor:
    """(k, m, D) -> the first photo's tokens and the first `kept` of each other one."""
    return torch.cat([tokens[0], tokens[1:, :kept].flatten(0, 1)])
