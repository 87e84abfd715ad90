"""From scenes to pictures with true masks, landmarks and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .annotations import boxes_of, landmarks_of
from .background import paint_backgrounds
from .clothes import paint_shirt
from .framing import Framing, frame
from .geometry import canvas, surface
from .glasses import paint_glasses
from .hair import paint_back_hair, paint_bun, paint_hair
from .head import paint_ears, paint_head, paint_neck
from .identity import Identity, identities
from .layer import Layer
from .lens import through_the_lens
from .scene import Scene

_PIXELS_AT_ONCE = 1 << 18  # samples per chunk: what is in work stays in a core's cache


@dataclass(frozen=True)
class Rendered:
    """A batch of pictures; N is the largest number of people in one, rows beyond `counts` are zero.

    images: (B, H, W, 3) float32, 0 to 1. masks: (B, N, H, W) float32, 0 to 1, the visible part of each head with its
    hair. landmarks: (B, N, 5, 2) pixels: left eye, right eye, nose, left and right mouth corner as seen. boxes:
    (B, N, 4) x1, y1, x2, y2 pixels, as a detector draws them. counts: (B,) int64, people per picture.
    """

    images: Tensor
    masks: Tensor
    landmarks: Tensor
    boxes: Tensor
    counts: Tensor

    def pixels(self) -> np.ndarray:
        """The images as (B, H, W, 3) uint8."""
        return (self.images * 255).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def render(scenes: Sequence[Scene], device: torch.device | str = "cpu", supersampling: int = 2) -> Rendered:
    """Draw scenes of one size; supersampling: samples per pixel and axis.

    A scene's picture does not depend on the others. Raises ValueError for no scenes or several sizes.
    """
    if not scenes:
        raise ValueError("there are no scenes to draw")
    if len({scene.size for scene in scenes}) != 1:
        raise ValueError("the scenes of one call must have one size; draw each size on its own")
    height, width = scenes[0].size
    people = max(len(scene.people) for scene in scenes)
    result = Rendered(
        torch.zeros(len(scenes), height, width, 3, device=device),
        torch.zeros(len(scenes), people, height, width, device=device),
        torch.zeros(len(scenes), people, 5, 2, device=device),
        torch.zeros(len(scenes), people, 4, device=device),
        torch.tensor([len(scene.people) for scene in scenes], device=device),
    )
    for count in sorted({len(scene.people) for scene in scenes}):
        chosen = [row for row, scene in enumerate(scenes) if len(scene.people) == count]
        at_once = max(1, _PIXELS_AT_ONCE // (height * width * supersampling**2))
        for start in range(0, len(chosen), at_once):
            rows = chosen[start : start + at_once]
            _render_rows(result, rows, [scenes[row] for row in rows], count, supersampling)
    return result


def _render_rows(result: Rendered, rows: list[int], scenes: list[Scene], count: int, supersampling: int) -> None:
    """Draw scenes of one size with `count` people each into rows of the result."""
    device = result.images.device
    height, width = scenes[0].size
    framing = frame(scenes)
    identity = identities([person.seed for scene in scenes for person in scene.people])
    layer, heads = _draw_people(identity.to(device), framing, height, supersampling, device)
    colours, cover, heads = (_shrunk(part, supersampling) for part in (layer.colours, layer.cover, heads))
    pictures = paint_backgrounds([scene.background for scene in scenes], height, width, device)
    masks = torch.zeros(len(scenes), count, height, width, device=device)
    for person in range(len(framing.left)):
        picture, place = divmod(person, count)
        left = framing.left[person]
        columns = slice(max(0, left), min(width, left + framing.width))
        own = slice(columns.start - left, columns.stop - left)
        behind = 1 - cover[person, :, own]
        pictures[picture, :, :, columns] = pictures[picture, :, :, columns] * behind + colours[person, :, :, own]
        masks[picture, :place, :, columns] *= behind
        masks[picture, place, :, columns] = heads[person, :, own]
    chosen = torch.tensor(rows, device=device)
    result.images[chosen] = through_the_lens(pictures, scenes).permute(0, 2, 3, 1)
    result.masks[chosen, :count] = masks
    landmarks, boxes = landmarks_of(identity, framing.look), boxes_of(identity, framing.look)
    offsets = torch.tensor(framing.left, dtype=torch.float32)[:, None]
    landmarks[..., 0] += offsets
    boxes[:, 0::2] += offsets
    result.landmarks[chosen, :count] = landmarks.view(len(rows), count, 5, 2).to(device)
    result.boxes[chosen, :count] = boxes.view(len(rows), count, 4).to(device)


def _draw_people(
    identity: Identity, framing: Framing, height: int, supersampling: int, device: torch.device
) -> tuple[Layer, Tensor]:
    """Everybody on a transparent patch, and the cover (P, h, w) of the heads with their hair."""
    shape = len(identity), height * supersampling, framing.width * supersampling
    layer = Layer(torch.zeros(shape[0], 3, *shape[1:], device=device), torch.zeros(shape, device=device))
    long, bun = identity.hair_length > 0, identity.hair_bun > 0
    haired, bespectacled = identity.hair > 0, identity.glasses > 0
    who, how = identity.spread(2), framing.look.to(device).spread(2)
    where = canvas(how, height, framing.width, supersampling)
    window = framing.scaled_heads(supersampling)
    near, near_layer = where.window(window), layer.window(window)
    head = surface(who, how, near)
    for chosen, paint in ((long, paint_back_hair), (bun, paint_bun)):
        if rows := _rows(chosen):
            paint(layer, where[rows], who[rows], how[rows], rows)
    heads = layer.cover.clone()
    heads *= 1 - paint_neck(layer, where, who, how)
    heads *= 1 - paint_shirt(layer, where, how)
    paint_ears(near_layer, near, who, how)
    near_heads = paint_head(near_layer, head, near, who, how)
    heads[:, window[0], window[1]] = torch.maximum(heads[:, window[0], window[1]], near_heads)
    if rows := _rows(haired):
        cover = paint_hair(layer, where[rows], who[rows], how[rows], rows)
        heads[rows] = torch.maximum(heads[rows], cover)
    if rows := _rows(bespectacled):
        paint_glasses(near_layer, head[rows], near[rows], who[rows], how[rows], rows)
    return layer, heads


def _rows(chosen: Tensor) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def _shrunk(samples: Tensor, supersampling: int) -> Tensor:
    """Means of supersampling² samples."""
    if supersampling == 1:
        return samples
    planes = samples if samples.ndim == 4 else samples[:, None]
    shrunk = F.avg_pool2d(planes, supersampling)
    return shrunk if samples.ndim == 4 else shrunk[:, 0]
