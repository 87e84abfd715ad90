"""Pictures as the face code wants them, (H, W, 3) uint8 RGB, from ComfyUI's tensors and from files.

Transparency: a picture with an alpha channel is laid over mid grey (128), the colour that detection pads with too, so
that whatever colours hide behind transparent pixels play no part. Where alpha is 1 nothing changes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

GREY = 128
_STRIP = 512  # rows converted at a time: a 8000 x 6000 picture then needs no second copy in float


def pictures_from_tensor(images: Tensor) -> tuple[np.ndarray, ...]:
    """A ComfyUI IMAGE batch as pictures.

    images: (B, H, W, C) float, about [0, 1]: C = 3 is RGB, 4 is RGB with alpha, 1 is grey. Values outside are clipped;
    k / 255 becomes exactly k. Returns B arrays (H, W, 3) uint8 RGB.
    Raises ValueError for another shape or type, an empty batch, and, by its number, for a picture with NaN or infinite
    values.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.is_floating_point():
        raise ValueError(
            f"pictures must be a float tensor (batch, height, width, 1, 3 or 4 channels), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if 0 in images.shape:
        raise ValueError(f"there is no picture in this input: its shape is {tuple(images.shape)}")
    count = len(images)
    return tuple(_picture(image, f"picture {number} of {count}") for number, image in enumerate(images, start=1))


def _picture(image: Tensor, name: str) -> np.ndarray:
    strips = []
    for strip in image.detach().split(_STRIP):
        strip = strip.to("cpu", torch.float32)
        if not torch.isfinite(strip).all():
            raise ValueError(
                f"{name} holds values that are NaN or infinite; the node that made it went wrong "
                "(often a VAE in half precision)"
            )
        strip = strip.clamp(0, 1)
        if strip.shape[-1] == 4:
            alpha = strip[..., 3:]
            strip = strip[..., :3] * alpha + (GREY / 255) * (1 - alpha)
        strips.append((strip * 255).round().to(torch.uint8).expand(-1, -1, 3))
    return torch.cat(strips).numpy()


def open_picture(path: str | Path) -> np.ndarray:
    """Read a picture file: turned as its EXIF orientation says, alpha laid over grey, grey and palette made RGB.

    Returns (H, W, 3) uint8 RGB. 16-bit grey is scaled to 8 bits.
    Raises ValueError naming the file when it is missing, damaged or no picture.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: damaged PNG chunks
        raise ValueError(f"the picture {path} could not be read: {error}") from error
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture, np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (GREY, GREY, GREY, 255)), picture)
    return np.array(picture.convert("RGB"))
