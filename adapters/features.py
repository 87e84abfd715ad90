"""From the image networks' outputs to the features that the identity resamplers read (UniPortrait section 3.2).

k is the number of references of ONE person. UniPortrait joins them on the token axis, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RECOGNITION_SIZE = 112


def clip_pixels(pixels: Tensor) -> Tensor:
    """Normalise RGB pixels (k, 3, 224, 224) in [0, 1] as CLIP expects them."""
    return (pixels - _channels(CLIP_MEAN, pixels)) / _channels(CLIP_STD, pixels)


def recognition_input(clip_input: Tensor) -> Tensor:
    """The face backbone's input (k, 3, 112, 112), RGB in [-1, 1], from CLIP's input (k, 3, 224, 224)."""
    pixels = clip_input * _channels(CLIP_STD, clip_input) + _channels(CLIP_MEAN, clip_input)
    return _resize(((pixels - 0.5) / 0.5).clamp(-1.0, 1.0), (RECOGNITION_SIZE, RECOGNITION_SIZE))


def map_tokens(maps: Tensor) -> Tensor:
    """Maps (k, C, h, w) as tokens (k, h·w, C), row by row."""
    return maps.flatten(2).transpose(1, 2)


def shallow_tokens(taps: Sequence[Tensor], side: int) -> Tensor:
    """All maps of a face backbone but the last, brought to side x side and joined channel by channel.

    taps are four maps (k, C, h, w), finest first; (k, side², 64 + 128 + 256) with the published backbones.
    """
    return map_tokens(torch.cat([_resize(tap, (side, side)) for tap in taps[:-1]], dim=1))


def zero_maps(taps: Sequence[Tensor]) -> list[Tensor]:
    """What the systems call nobody's face: all-zero maps, one reference long, of the size of `taps`."""
    return [torch.zeros_like(tap[:1]) for tap in taps]


def intrinsic_features(taps: Sequence[Tensor]) -> Tensor:
    """The backbone's deepest map (k, 512, 7, 7) as tokens (1, 49·k, 512)."""
    return _join_references(map_tokens(taps[-1]))


def structure_features(taps: Sequence[Tensor], clip_hidden: Tensor) -> Tensor:
    """The backbone's shallow maps and CLIP's patch tokens, channel by channel: (1, 256·k, 448 + 1280).

    taps are the four maps of the backbone, of which all but the last are used. clip_hidden (k, 256, 1280) is the
    output of CLIP's last layer but one, without the class token.
    """
    side = round(clip_hidden.shape[1] ** 0.5)
    tokens = shallow_tokens(taps, side).to(clip_hidden)
    return _join_references(torch.cat([tokens, clip_hidden], dim=-1))


def unconditional_features(taps: Sequence[Tensor], clip_hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Intrinsic and structure features of nobody, one reference long: zero maps of the size of `taps`.

    clip_hidden (1, 256, 1280) is CLIP's output, without the class token, for an all-zero NORMALISED picture.
    """
    nothing = zero_maps(taps)
    return intrinsic_features(nothing), structure_features(nothing, clip_hidden)


def _join_references(tokens: Tensor) -> Tensor:
    """(k, n, d) -> (1, k·n, d)."""
    return tokens.flatten(0, 1)[None]


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
