"""The node Encode Identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..faces.types import Faces
from ..model_patches.uniid_models import SYSTEM as UNIID
from ..model_patches.uniportrait_models import SYSTEM as UNIPORTRAIT
from .encoding import encode_photos, nobody
from .previews import counted, shown
from .pulid_options import PhotoReading
from .reference_faces import NO_FACE, choose_references, find_strangers
from .types import AdapterType, FacesType, IdentityType, PuLIDOptionsType

if TYPE_CHECKING:
    from .encoding import Adapter

MOST_INPUTS = 20
STRUCTURE_SCALE = 0.1


class EncodeIdentity(io.ComfyNode):
    """Turns photos of one person into an identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_EncodeIdentity",
            display_name="Encode Identity",
            category="Likeness/identity",
            description="Turns one or more photos of ONE person into an identity. Several photos give a steadier one.",
            search_aliases=[
                "faceid",
                "face embedding",
                "id embedding",
                "encode face",
                "reference photo",
                "pulid",
                "uniid",
            ],
            inputs=[
                AdapterType.Input(
                    "adapter",
                    tooltip="From Load UniPortrait with CLIP vision, Load PuLID with EVA-CLIP, or Load UniID with its "
                    "backbone.",
                ),
                io.Autogrow.Input(
                    "faces",
                    template=io.Autogrow.TemplateNames(
                        FacesType.Input("faces", tooltip="Faces of this person; the largest of each picture is used."),
                        names=[f"faces_{number}" for number in range(1, MOST_INPUTS + 1)],
                        min=1,
                    ),
                    tooltip="Photos of one person, from Detect Faces or Pick Faces. Their order does not matter, but "
                    "PuLID v1 takes more of the first photo.",
                ),
                io.Float.Input(
                    "structure_scale",
                    default=STRUCTURE_SCALE,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="UniPortrait only. How much of the photo's look is kept besides who it is. More is closer "
                    "to the photo, but its pose, light and expression leak into the picture. 0.1 for one person, up to "
                    "0.3 for several.",
                ),
                io.String.Input("label", default="", tooltip="A name for this person, for messages and routing maps."),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default=NO_FACE[0],
                    tooltip="What to do when a picture shows no face. skip picture: use the others and warn. leave "
                    "person out: the same, and if no picture shows a face, Apply draws the others only.",
                ),
                PuLIDOptionsType.Input(
                    "pulid_options",
                    optional=True,
                    tooltip="PuLID only, and rarely needed: how several photos are joined, from PuLID Options.",
                ),
            ],
            outputs=[
                IdentityType.Output("identity", display_name="identity", tooltip="The person, for Apply, Mix or Save."),
                io.Image.Output(
                    "crops",
                    display_name="crops",
                    tooltip="The faces as the adapter saw them: upright, for PuLID in grey on white.",
                ),
                io.Boolean.Output("found", display_name="found", tooltip="False if no picture showed a face."),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter: Adapter,
        faces: dict[str, Faces],
        structure_scale: float,
        label: str,
        no_face: str,
        pulid_options: PhotoReading | None = None,
    ) -> io.NodeOutput:
        label = label.strip()
        references = choose_references(faces, no_face)
        warnings = references.warnings + _idle_settings(adapter.system, structure_scale, pulid_options)
        if not references.chosen:
            missing = nobody(adapter, label)
            text = f"{label or 'Nobody'}: no face found, left out of the picture"
            return io.NodeOutput(missing.identity, missing.seen, False, ui=shown(cls, text, warnings))
        encoded = encode_photos(adapter, references, structure_scale, pulid_options or PhotoReading(), label)
        warnings += find_strangers(encoded.vectors, references.names)
        text = f"{label or 'One person'} from {counted(len(encoded.seen), 'photo')}"
        return io.NodeOutput(encoded.identity, encoded.seen, True, ui=shown(cls, text, warnings, encoded.seen))


def _idle_settings(system: str, structure_scale: float, pulid_options: PhotoReading | None) -> list[str]:
    """Warnings about settings of another system than the adapter's, which change nothing here."""
    owner = {UNIPORTRAIT: "UniPortrait", UNIID: "UniID"}.get(system, "PuLID")
    idle = []
    if pulid_options is not None and owner != "PuLID":
        idle.append(f"pulid_options change nothing here: the adapter is {owner}'s")
    if structure_scale != STRUCTURE_SCALE and system != UNIPORTRAIT:
        idle.append(f"structure_scale changes nothing here: it is UniPortrait's, and the adapter is {owner}'s")
    return idle
