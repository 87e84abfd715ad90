"""The bundled detector: the MTCNN cascade (Zhang et al. 2016, "Joint face detection and alignment using multitask
cascaded convolutional networks", section III) on weights that ship with the pack (weights/NOTICE.md).

Three small networks look at ever fewer candidates: the first at every place of an image pyramid, the second and the
third at the crops that are left; the third also gives the landmarks. Everything runs on the CPU in float32, so the
result does not depend on the machine's accelerator.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from .overlap import suppress
from .pictures import GREY
from .types import Detection

WEIGHTS = Path(__file__).parent / "weights" / "mtcnn.safetensors"

# The detector's usual settings, as published with the weights.
_SMALLEST_FACE = 20  # pixels
_PYRAMID_FACTOR = 0.709  # each level has about half the area of the one before
_CELL, _STRIDE = 12, 2  # field of view and stride of the first network
_THRESHOLDS = (0.6, 0.7, 0.7)

_LONGEST_SIDE = 1280  # larger pictures are scaled down to it: time and memory stay bounded
_MOST_CANDIDATES = 3000  # per pyramid level, best first; photographs stay far below
_CROPS_AT_ONCE = 512

# In photographs of groups, detections below this score were either true faces (profiles, lowered heads) about as large
# as the others, or specks of texture less than half as large.
_SURE = 0.9


class _Stage(nn.Module):
    """Convolutions and dense layers with PReLU, then one linear head per output."""

    def __init__(self, trunk: list[nn.Module], heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pixels 0 to 255, (k, 3, H, W). Returns each head's output; "face" is the probability of a face."""
        x = self.trunk((x - 127.5) / 128)
        outputs = {name: head(x) for name, head in self.heads.items()}
        outputs["face"] = outputs["face"].softmax(1)[:, 1]
        return outputs


def _conv(inputs: int, width: int, kernel: int, pool: int = 0) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, width, kernel), nn.PReLU(width)]
    return [*layers, nn.MaxPool2d(pool, 2, ceil_mode=True)] if pool else layers


def _dense(inputs: int, width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(inputs, width), nn.PReLU(width)]


def _proposal_stage() -> _Stage:
    trunk = [*_conv(3, 10, 3, pool=2), *_conv(10, 16, 3), *_conv(16, 32, 3)]
    return _Stage(trunk, {"face": nn.Conv2d(32, 2, 1), "box": nn.Conv2d(32, 4, 1)})


def _refinement_stage() -> _Stage:
    trunk = [*_conv(3, 28, 3, pool=3), *_conv(28, 48, 3, pool=3), *_conv(48, 64, 2), *_dense(576, 128)]
    return _Stage(trunk, {"face": nn.Linear(128, 2), "box": nn.Linear(128, 4)})


def _output_stage() -> _Stage:
    trunk = [*_conv(3, 32, 3, pool=3), *_conv(32, 64, 3, pool=3), *_conv(64, 64, 3, pool=2), *_conv(64, 128, 2)]
    trunk += _dense(1152, 256)
    return _Stage(trunk, {"face": nn.Linear(256, 2), "box": nn.Linear(256, 4), "points": nn.Linear(256, 10)})


class MTCNN:
    """Face detector with five landmarks on the bundled weights."""

    name = "bundled"

    def __init__(self) -> None:
        self._stages = nn.ModuleDict(
            {"proposal": _proposal_stage(), "refinement": _refinement_stage(), "output": _output_stage()}
        )
        self._stages.load_state_dict(load_file(WEIGHTS))
        self._stages.eval().requires_grad_(False)

    @torch.no_grad()
    def detect(self, image: np.ndarray) -> list[Detection]:
        """Faces of one picture (H, W, 3) uint8 RGB in its pixels, best score first; none in a tiny picture."""
        small = _shrink(image)
        pixels = _SummedPixels(small)
        boxes = self._refine(pixels, self._propose(pixels))
        boxes, scores, points = self._finish(pixels, boxes)
        scale = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
        boxes, points = boxes * np.tile(scale, 2), points * scale
        return [
            Detection(tuple(box.tolist()), landmarks.astype(np.float32), float(score))
            for box, score, landmarks in zip(boxes, scores, points, strict=True)
        ]

    def _propose(self, pixels: _SummedPixels) -> np.ndarray:
        """Square candidate boxes (n, 4) of the first network over the image pyramid."""
        found = []
        scale = _CELL / _SMALLEST_FACE
        while min(pixels.height, pixels.width) * scale >= _CELL:
            level = pixels.resized(int(pixels.height * scale + 1), int(pixels.width * scale + 1))
            found.append(self._propose_at(level, scale))
            scale *= _PYRAMID_FACTOR
        cells, scores, shifts = (np.concatenate(part) for part in zip(*found, strict=True)) if found else _NOTHING
        kept = suppress(cells, scores, 0.7)
        return _square(_shifted(cells[kept], shifts[kept], border=0))

    def _propose_at(self, level: Tensor, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells (n, 4) of one pyramid level in picture pixels, their scores (n,) and box corrections (n, 4)."""
        outputs = self._stages["proposal"](level)
        probability = outputs["face"][0]
        rows, columns = torch.where(probability >= _THRESHOLDS[0])
        scores = probability[rows, columns].numpy()
        shifts = outputs["box"][0, :, rows, columns].T.numpy()
        corner = torch.stack([columns, rows], dim=1).numpy() * _STRIDE + 1
        cells = np.floor(np.hstack([corner, corner + _CELL - 1]) / scale)
        best = np.argsort(-scores, kind="stable")[:_MOST_CANDIDATES]
        kept = best[suppress(cells[best], scores[best], 0.5)]
        return cells[kept], scores[kept], shifts[kept]

    def _refine(self, pixels: _SummedPixels, boxes: np.ndarray) -> np.ndarray:
        """The candidates that the second network keeps, corrected and square (n, 4)."""
        boxes, outputs = self._judge("refinement", pixels, boxes, 24, _THRESHOLDS[1])
        kept = suppress(boxes, outputs["face"], 0.7)
        return _square(_shifted(boxes[kept], outputs["box"][kept], border=1))

    def _finish(self, pixels: _SummedPixels, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (n, 4), scores (n,) and landmarks (n, 5, 2) of the third network, best first."""
        boxes, outputs = self._judge("output", pixels, boxes, 48, _THRESHOLDS[2])
        sides = boxes[:, None, 2:] - boxes[:, None, :2] + 1
        points = outputs["points"].reshape(-1, 2, 5).swapaxes(1, 2)  # the network gives 5 x, then 5 y
        points = boxes[:, None, :2] + points * sides - 1
        boxes = _shifted(boxes, outputs["box"], border=1)
        kept = suppress(boxes, outputs["face"], 0.7, smaller=True)
        kept = kept[_plausible(boxes[kept], outputs["face"][kept])]
        return boxes[kept], outputs["face"][kept], points[kept]

    def _judge(
        self, stage: str, pixels: _SummedPixels, boxes: np.ndarray, size: int, threshold: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The boxes that a network takes for faces, and what it says about them."""
        corners = torch.from_numpy(np.trunc(boxes).astype(np.int64) - [1, 1, 0, 0])  # the cascade counts pixels from 1
        parts = [self._stages[stage](pixels.crops(part, size)) for part in corners.split(_CROPS_AT_ONCE)]
        outputs = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        faces = outputs["face"] > threshold
        return boxes[faces], {name: output[faces] for name, output in outputs.items()}


_NOTHING = (np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)))


class _SummedPixels:
    """A picture as its summed-area table: the mean of any rectangle costs four look-ups, whatever its size.

    So every crop and pyramid level is resized by area averaging in one batch. The sums are exact integers: with the
    margins the largest picture's is 2.25 · 1280² · 255, less than 2³⁰. Around the picture lies a grey margin, so that
    crops which reach over the edge keep their shape; cut off and stretched, as in the published code, they put the
    landmarks of a face that fills its picture off by a quarter of the eye distance.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.height, self.width = image.shape[:2]
        self._margin = margin = max(self.height, self.width) // 4
        framed = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
        sums = torch.from_numpy(framed).cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
        self._sums = F.pad(sums, (0, 0, 1, 0, 1, 0))  # (H + 2 margins + 1, W + 2 margins + 1, 3)

    def resized(self, height: int, width: int) -> Tensor:
        """The whole picture as (1, 3, height, width) float32, 0 to 255."""
        return self._means(torch.tensor([[0, 0, self.width, self.height]]), height, width)

    def crops(self, boxes: Tensor, size: int) -> Tensor:
        """Boxes (k, 4) in whole pixels as (k, 3, size, size) float32, 0 to 255; cut where the margin ends."""
        start = torch.tensor([self.width, self.height]) + self._margin - 1
        first = boxes[:, :2].clamp(min=-self._margin).minimum(start)
        end = boxes[:, 2:].minimum(start + 1).maximum(first + 1)
        return self._means(torch.cat([first, end], dim=1), size, size)

    def _means(self, boxes: Tensor, height: int, width: int) -> Tensor:
        boxes = boxes + self._margin
        left, right = _edges(boxes[:, 0], boxes[:, 2], width)
        top, bottom = _edges(boxes[:, 1], boxes[:, 3], height)
        rows = ((top[:, :, None], 1), (bottom[:, :, None], -1))
        sums = sum(
            row_sign * column_sign * self._sums[row, column]
            for row, row_sign in rows
            for column, column_sign in ((left[:, None, :], 1), (right[:, None, :], -1))
        )
        areas = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        return (sums / areas[..., None]).permute(0, 3, 1, 2).contiguous()


def _edges(start: Tensor, end: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First pixel and end of `count` windows (k, count) that cover the pixels start to end (k,) evenly."""
    steps, length = torch.arange(count + 1), (end - start)[:, None]
    first = steps[:-1] * length // count
    last = -(-steps[1:] * length // count)
    return start[:, None] + first, start[:, None] + last


def _plausible(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """True (n,) for all but doubtful detections that are less than half as wide as the largest sure face."""
    widths, sure = boxes[:, 2] - boxes[:, 0], scores >= _SURE
    return sure | (widths >= widths[sure].max(initial=0) / 2)


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= _LONGEST_SIDE:
        return np.ascontiguousarray(image)
    size = tuple(max(1, round(side * _LONGEST_SIDE / longest)) for side in (width, height))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _shifted(boxes: np.ndarray, shifts: np.ndarray, border: int) -> np.ndarray:
    """Boxes (n, 4) moved by a network's corrections, which are in units of the box's sides."""
    sides = boxes[:, 2:] - boxes[:, :2] + border
    return boxes + shifts * np.tile(sides, 2)


def _square(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) widened to squares about their centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - longest) / 2
    return np.hstack([corner, corner + longest])
