"""The node Detect Faces."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..faces.detection import DETECTORS, find_faces, load_detector
from ..faces.drawing import numbered_preview
from ..faces.pictures import pictures_from_tensor
from ..faces.types import Faces
from .model_folders import INSIGHTFACE, model_folders
from .previews import counted, preview_batch, shown
from .types import FacesType


class DetectFaces(io.ComfyNode):
    """Finds every face of a batch of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_DetectFaces",
            display_name="Detect Faces",
            category="Likeness/faces",
            description="Finds the faces in photos and numbers them, largest first.",
            search_aliases=["face detection", "find faces", "insightface", "mtcnn", "face analysis", "faceid"],
            inputs=[
                io.Image.Input("image", tooltip="One photo, or a batch of photos. Large ones need no resizing."),
                io.Combo.Input(
                    "detector",
                    options=list(DETECTORS),
                    default="auto",
                    tooltip="auto: an insightface model where models/insightface has one, else the bundled detector. "
                    "bundled: needs no download. insightface: better with small, turned or half covered faces.",
                ),
            ],
            outputs=[
                FacesType.Output("faces", display_name="faces", tooltip="All faces, largest first, with the photos."),
                io.Int.Output("count", display_name="count", tooltip="How many faces were found; may be 0."),
                io.Image.Output("preview", display_name="preview", tooltip="The photos with numbered faces."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: torch.Tensor, detector: str) -> io.NodeOutput:
        pictures = pictures_from_tensor(image)
        faces = find_faces(pictures, load_detector(detector, model_folders(INSIGHTFACE)))
        preview = preview_batch(numbered_preview(faces))
        return io.NodeOutput(faces, len(faces), preview, ui=shown(cls, faces_found(faces), images=preview))


def faces_found(faces: Faces) -> str:
    """A sentence about a detection: "3 faces in 2 pictures (bundled detector), none in picture 2"."""
    place = counted(len(faces.images), "picture")
    detector = faces.detector if faces.detector == "given boxes" else f"{faces.detector} detector"
    if len(faces) == 0:
        return f"no face in {place} ({detector})"
    without = ", ".join(str(index + 1) for index in faces.pictures_without_face)
    return f"{counted(len(faces), 'face')} in {place} ({detector}){f', none in picture {without}' if without else ''}"
