"""Pictures and sentences that a node shows about its own run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io, ui

logger = logging.getLogger("likeness.nodes")

LONGEST_SIDE = 1536  # pixels; a preview of a large photo would cost more than the work it shows


def image_batch(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (k, H, W, 3) uint8 as ComfyUI's IMAGE (k, H, W, 3), float32 in [0, 1]."""
    return torch.from_numpy(pictures).float() / 255


def preview_batch(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Pictures of any sizes (H, W, 3) uint8 as one IMAGE: shrunk where they are large, with black below and right."""
    images = [_shrunk(picture) for picture in pictures]
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    batch = torch.zeros(len(images), height, width, 3)
    for place, image in zip(batch, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return batch


def shown(
    cls: type[io.ComfyNode], text: str, warnings: Sequence[str] = (), images: torch.Tensor | None = None
) -> dict[str, Any]:
    """What a node shows: a sentence, warnings, which are logged too, and pictures."""
    for warning in warnings:
        logger.warning("%s: %s", cls.define_schema().display_name, warning)
    lines = [text, *(f"Warning: {warning}" for warning in warnings)]
    content = ui.PreviewText("\n".join(lines)).as_dict()
    if images is not None and len(images):
        content |= ui.PreviewImage(images, cls=cls).as_dict()
    return content


def counted(count: int, thing: str) -> str:
    """A number with its noun: "1 face", "3 faces"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _shrunk(picture: np.ndarray) -> torch.Tensor:
    height, width = picture.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image_batch(picture)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    pixels = torch.from_numpy(picture).movedim(-1, 0)[None].float() / 255
    return comfy.utils.common_upscale(pixels, *size, "area", "disabled")[0].movedim(0, -1)
