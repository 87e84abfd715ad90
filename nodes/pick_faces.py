"""The node Pick Faces."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..faces.choice import RULES, choose_faces
from ..faces.types import Faces
from .previews import counted, image_batch, shown
from .types import FacesType

CROP_SIZE = 224


class PickFaces(io.ComfyNode):
    """Chooses some of the faces that were found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_PickFaces",
            display_name="Pick Faces",
            category="Likeness/faces",
            description="Chooses faces by size, place, score or number, where a photo shows more people than needed.",
            search_aliases=["choose face", "select face", "face index", "largest face", "face by number"],
            inputs=[
                FacesType.Input("faces", tooltip="Faces from Detect Faces."),
                io.Combo.Input(
                    "rule",
                    options=list(RULES),
                    default="largest",
                    tooltip="How to choose, over all pictures together. by number: as drawn on the preview of "
                    "Detect Faces, listed in numbers. centre: nearest to the middle of its picture.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many faces to take; too few found is an error. Not used by the rule by number.",
                ),
                io.String.Input(
                    "numbers",
                    default="1",
                    tooltip="Only for the rule by number: face numbers from the preview, such as 2 or 1, 3-4.",
                ),
            ],
            outputs=[
                FacesType.Output("faces", display_name="faces", tooltip="The chosen faces, with their pictures only."),
                io.Image.Output("crops", display_name="crops", tooltip="The chosen faces upright, 224 x 224 pixels."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, faces: Faces, rule: str, count: int, numbers: str) -> io.NodeOutput:
        chosen = choose_faces(faces, rule, count, numbers)
        crops = image_batch(chosen.crops(CROP_SIZE))
        listed = ", ".join(str(faces.faces.index(face) + 1) for face in chosen)
        text = f"{len(chosen)} of {counted(len(faces), 'face')} chosen: number {listed}"
        return io.NodeOutput(_own_pictures(chosen), crops, ui=shown(cls, text, images=crops))


def _own_pictures(faces: Faces) -> Faces:
    """The faces without pictures that none of them is in: to an encoder such a picture would lack its face."""
    kept = sorted({face.image_index for face in faces})
    return replace(
        faces,
        images=tuple(faces.images[index] for index in kept),
        faces=tuple(replace(face, image_index=kept.index(face.image_index)) for face in faces),
    )
