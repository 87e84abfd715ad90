"""Finding the faces of a batch of pictures, with retries, by whichever detector there is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .insightface_packs import DETECTOR, find_network, missing_message
from .mtcnn import MTCNN
from .onnx_sessions import runtime_available
from .pictures import GREY
from .scrfd import SCRFD
from .types import Detection, Face, Faces, clip_box, largest_first

logger = logging.getLogger("likeness.faces")

DETECTORS = ("auto", "bundled", "insightface")


class Detector(Protocol):
    """What finds faces in one picture."""

    name: str

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Faces of a picture (H, W, 3) uint8 RGB in its pixels. Retries at other input sizes happen in here."""
        ...


def load_detector(name: str, folders: Sequence[Path] = ()) -> Detector:
    """A detector by name: "bundled", "insightface", or "auto" for insightface where it is there, else bundled.

    folders: where insightface packs may lie, such as ComfyUI's models/insightface.
    Raises ValueError for another name, and for "insightface" when the model file or onnxruntime is missing.
    """
    if name not in DETECTORS:
        raise ValueError(f"unknown face detector {name!r}; there are {', '.join(DETECTORS)}")
    if name == "bundled":
        return MTCNN()
    found = find_network(DETECTOR, folders)
    if name == "auto" and (found is None or not runtime_available()):
        logger.info("faces are detected with the bundled detector")
        return MTCNN()
    if found is None:
        raise ValueError(missing_message(DETECTOR, folders))
    logger.info("faces are detected with %s", found.path)
    return SCRFD(found.read(), f"insightface {found.pack}")


def find_faces(images: Sequence[np.ndarray], detector: Detector) -> Faces:
    """All faces of a batch, largest box first; equal ones by picture, then in the detector's order.

    images: each (H, W, 3) uint8 RGB. A picture where nothing is found is tried again with a grey border, for faces
    that fill it (spec, section 1, step 3). A picture without a face adds none: that is for the caller to judge.
    """
    found = [
        Face(detection.box, detection.landmarks, detection.score, index)
        for index, image in enumerate(images)
        for detection in detector.detect(image) or _detect_padded(image, detector)
    ]
    return Faces(tuple(images), largest_first(found), detector.name)


def _detect_padded(image: np.ndarray, detector: Detector) -> list[Detection]:
    """Detect with a grey border of a quarter of each side; boxes are clipped to the picture, landmarks are not."""
    height, width = image.shape[:2]
    top, left = height // 4, width // 4
    padded = np.full((height + 2 * top, width + 2 * left, 3), GREY, np.uint8)
    padded[top : top + height, left : left + width] = image
    return [
        Detection(
            clip_box(tuple(np.subtract(found.box, (left, top, left, top)).tolist()), image),
            found.landmarks - np.array([left, top], np.float32),
            found.score,
        )
        for found in detector.detect(padded)
    ]
