"""The node Faces from Boxes."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..faces.drawing import numbered_preview
from ..faces.given_boxes import Boxes, faces_from_boxes
from ..faces.pictures import pictures_from_tensor
from .detect_faces import faces_found
from .previews import preview_batch, shown
from .types import FacesType


class FacesFromBoxes(io.ComfyNode):
    """Takes faces from bounding boxes instead of a detector."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_FacesFromBoxes",
            display_name="Faces from Boxes",
            category="Likeness/faces",
            description="Marks faces by bounding boxes, for drawn, masked or turned faces that no detector finds.",
            search_aliases=["bounding box", "bbox", "anime face", "manual face", "face from box"],
            inputs=[
                io.Image.Input("image", tooltip="The photo or drawing, or a batch of them."),
                io.BoundingBox.Input(
                    "boxes",
                    force_input=True,
                    tooltip="A box around each whole face, from forehead to chin, in pixels: from a node that makes "
                    "bounding boxes. Eyes, nose and mouth are assumed where an upright face has them.",
                ),
            ],
            outputs=[
                FacesType.Output("faces", display_name="faces", tooltip="One face for each box, largest first."),
                io.Int.Output("count", display_name="count", tooltip="How many boxes there were."),
                io.Image.Output("preview", display_name="preview", tooltip="The pictures with numbered boxes."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: torch.Tensor, boxes: Boxes) -> io.NodeOutput:
        faces = faces_from_boxes(pictures_from_tensor(image), boxes)
        preview = preview_batch(numbered_preview(faces))
        return io.NodeOutput(faces, len(faces), preview, ui=shown(cls, faces_found(faces), images=preview))
