"""From the face backbone's outputs to the tokens of one person, for UniID (docs/uniid.md, 3 to 5).

k is the number of photos of ONE person.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .features import zero_maps
from .uniid import UniID


def uniid_tokens(adapter: UniID, face: Tensor, maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """An identity's tokens: "cond" and "uncond" (m, D), with the text branch "text" (n, D) raw, and stored "norms".

    face (k, 512) is the backbone's vector, maps its four maps of the same photos. Each photo is read alone and tokens
    are averaged one by one, our own rule; "uncond" is what the adapter branch makes of zero maps. Without the adapter
    branch m is 0.
    Raises ValueError without a photo.
    """
    if not len(face):
        raise ValueError("a person needs at least one photo.")
    assert all(len(each) == len(face) for each in maps), [tuple(each.shape) for each in maps]
    cond = uncond = face.new_zeros(0, adapter.sizes.context)
    if adapter.resampler is not None:
        cond, uncond = adapter.resampler(maps).mean(0), adapter.resampler(zero_maps(maps))[0]
    tokens = {"cond": cond, "uncond": uncond}
    if adapter.text_branch is not None:
        tokens["text"] = torch.cat(adapter.text_branch(face, maps[-1]), dim=-1).mean(0)
        if adapter.name_norms is not None:
            tokens["norms"] = adapter.name_norms
    return tokens
