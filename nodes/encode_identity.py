"""The node Encode Identity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from comfy_api.latest import io

from ..faces.types import Faces
from ..model_patches.uniportrait_models import UniPortraitModels
from .model_files import CLIP_VISION, advice
from .previews import counted, image_batch, shown
from .reference_faces import choose_references, find_strangers
from .types import AdapterType, FacesType, IdentityType

NO_FACE = ("error", "skip picture")
PREPROCESSING = "1"  # of the way from photo to tokens; a change that moves the tokens needs another number
MOST_INPUTS = 20


class EncodeIdentity(io.ComfyNode):
    """Turns photos of one person into an identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_EncodeIdentity",
            display_name="Encode Identity",
            category="Likeness/identity",
            description="Turns one or more photos of ONE person into an identity. Several photos give a steadier one.",
            search_aliases=["faceid", "face embedding", "id embedding", "encode face", "reference photo"],
            inputs=[
                AdapterType.Input("adapter", tooltip="From Load UniPortrait, with a CLIP vision model."),
                io.Autogrow.Input(
                    "faces",
                    template=io.Autogrow.TemplateNames(
                        FacesType.Input("faces", tooltip="Faces of this person; the largest of each picture is used."),
                        names=[f"faces_{number}" for number in range(1, MOST_INPUTS + 1)],
                        min=1,
                    ),
                    tooltip="Photos of one person, from Detect Faces or Pick Faces. Their order does not matter.",
                ),
                io.Float.Input(
                    "structure_scale",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the photo's look is kept besides who it is. More is closer to the photo, but "
                    "its pose, light and expression leak into the picture. 0.1 for one person, up to 0.3 for several.",
                ),
                io.String.Input("label", default="", tooltip="A name for this person, for messages and routing maps."),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default=NO_FACE[0],
                    tooltip="What to do when a picture shows no face. skip picture: use the others and warn.",
                ),
            ],
            outputs=[
                IdentityType.Output("identity", display_name="identity", tooltip="The person, for Apply, Mix or Save."),
                io.Image.Output("crops", display_name="crops", tooltip="The faces that were used, 224 x 224 pixels."),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter: UniPortraitModels,
        faces: dict[str, Faces],
        structure_scale: float,
        label: str,
        no_face: str,
    ) -> io.NodeOutput:
        if adapter.encoder is None:
            raise ValueError(
                "Encode Identity: the adapter was loaded without CLIP vision, so it cannot see photos. Connect Load "
                f"CLIP Vision to Load UniPortrait. {advice(CLIP_VISION)}"
            )
        references = choose_references(faces, skip_faceless=no_face != NO_FACE[0])
        crops = image_batch(np.stack(references.crops))
        warnings = references.warnings
        if len(crops) > 1:
            warnings = warnings + find_strangers(adapter.encoder.embed(crops), references.names)
        identity = replace(adapter.encoder.encode(crops, structure_scale, label.strip()), preprocessing=PREPROCESSING)
        text = f"{label.strip() or 'One person'} from {counted(len(crops), 'photo')}"
        return io.NodeOutput(identity, crops, ui=shown(cls, text, warnings, crops))
