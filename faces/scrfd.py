"""SCRFD face detectors as the insightface packs hold them, read with onnxruntime alone.

Source of the output layout: the SCRFD paper (Guo et al. 2021) and the published files. For the strides 8, 16 and 32,
each with two anchors per cell: first three score maps, then three of box distances, then three of landmark offsets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .alignment import resize_bilinear
from .onnx_sessions import open_session
from .overlap import suppress
from .types import Detection

_STRIDES = (8, 16, 32)
_ANCHORS = 2
_SCORE_THRESHOLD = 0.5
_NMS_THRESHOLD = 0.4
_INSTEAD = ", or choose the bundled detector, which works without it"


class SCRFD:
    """Detector on one SCRFD file.

    The picture is scaled into the top left corner of a black square. If no face is found at the first of `sizes`, the
    smaller squares follow: the networks miss faces that fill their input.
    """

    def __init__(self, model: bytes, name: str, sizes: Sequence[int] = (640, 448, 320)) -> None:
        """model: the content of the .onnx file.

        Raises ValueError when onnxruntime is missing, and for a file that is damaged or no such detector.
        """
        self.name = name
        self._session = open_session(model, f"the detector {name}", _INSTEAD)
        num_outputs = len(self._session.get_outputs())
        if num_outputs != 3 * len(_STRIDES):
            raise ValueError(
                f"{name} is not a face detector with landmarks: it has {num_outputs} outputs where SCRFD has 9"
            )
        (network_input, *_) = self._session.get_inputs()
        self._input = network_input.name
        sides = network_input.shape[2:]
        self._sizes = tuple(sides[:1]) if all(isinstance(side, int) for side in sides) else tuple(sizes)

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Faces of one picture (H, W, 3) uint8 RGB in its pixels, best score first."""
        for size in self._sizes:
            found = self._detect_at(image, size)
            if found:
                return found
        return []

    def _detect_at(self, image: np.ndarray, size: int) -> list[Detection]:
        canvas, scale = letterbox(image, size)
        pixels = (canvas.astype(np.float32) - 127.5) / 128
        outputs = self._session.run(None, {self._input: pixels.transpose(2, 0, 1)[None]})
        boxes, points, scores = decode(outputs, size)
        order = np.argsort(-scores, kind="stable")
        boxes, points, scores = boxes[order] / scale, points[order] / scale, scores[order]
        return [
            Detection(tuple(boxes[index].tolist()), points[index].astype(np.float32), float(scores[index]))
            for index in suppress(boxes, scores, _NMS_THRESHOLD)
        ]


def decode(outputs: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates above the score threshold: boxes (n, 4), landmarks (n, 5, 2), scores (n,), pixels of the square input.

    outputs: nine arrays, for each stride scores (cells, 1), then distances (cells, 4), then offsets (cells, 10), in
    strides; a leading batch axis of 1 is allowed.
    """
    parts = []
    for level, stride in enumerate(_STRIDES):
        scores, distances, offsets = (
            outputs[level + len(_STRIDES) * kind].reshape(-1, width) for kind, width in enumerate((1, 4, 10))
        )
        cells = np.arange(size // stride, dtype=np.float32) * stride
        centres = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2).repeat(_ANCHORS, axis=0)
        above = scores[:, 0] >= _SCORE_THRESHOLD
        centres, distances, offsets = centres[above], distances[above] * stride, offsets[above] * stride
        boxes = np.hstack([centres - distances[:, :2], centres + distances[:, 2:]])
        parts.append((boxes, centres[:, None] + offsets.reshape(-1, 5, 2), scores[above, 0]))
    boxes, points, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return boxes, points, scores


def letterbox(image: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """A picture (H, W, 3) uint8 in the top left of a black (size, size, 3) square, and its scale there."""
    height, width = image.shape[:2]
    ratio = height / width  # the roundings below are the insightface library's
    new_height, new_width = (size, max(1, int(size / ratio))) if ratio > 1 else (max(1, int(size * ratio)), size)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:new_height, :new_width] = resize_bilinear(image, new_width, new_height)
    return canvas, new_height / height
