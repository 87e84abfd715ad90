"""The node Identity Similarity."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..adapters.identity import Identity
from ..adapters.pulid import EDITIONS
from ..evaluation.drawing import BAD, GOOD, Mark, draw_marks
from ..evaluation.found_faces import FoundFaces, look_at
from ..evaluation.judges.arcface import load_arcface
from ..evaluation.judges.curricular import load_curricular
from ..evaluation.judges.dlib_resnet import NAME as DLIB
from ..evaluation.judges.dlib_resnet import available as dlib_available
from ..evaluation.judges.dlib_resnet import load_dlib
from ..evaluation.judges.judge import Judge
from ..evaluation.metrics.face_similarity import similarities
from ..faces.detection import DETECTORS, load_detector
from ..faces.pictures import pictures_from_tensor
from ..faces.types import Faces
from ..model_patches.uniportrait_models import SYSTEM as UNIPORTRAIT
from .model_files import BACKBONE, RECOGNISER, file_options, find_file
from .model_folders import INSIGHTFACE, model_folders
from .previews import counted, preview_batch, shown
from .recognisers import installed_recognisers, recogniser_folders
from .types import FacesType, IdentityType

AUTO = "auto"

_NODE = "Identity Similarity"
_NO_JUDGE = (
    f"{_NODE}: no independent face recogniser is installed. Install dlib with `pip install dlib-bin "
    "face-recognition-models` (with ComfyUI's own Python), or unpack an insightface pack (buffalo_l or antelopev2) "
    "into models/insightface."
)


class IdentitySimilarity(io.ComfyNode):
    """Says how much generated faces look like a person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_IdentitySimilarity",
            display_name="Identity Similarity",
            category="Likeness/faces",
            description="Measures how much the faces of generated pictures look like the person on reference photos, "
            "with a face recogniser that took no part in making them.",
            search_aliases=["face similarity", "compare faces", "face distance", "likeness score", "evaluate identity"],
            inputs=[
                io.Image.Input("image", tooltip="The generated pictures. Of each the face that fits best counts."),
                FacesType.Input(
                    "reference_faces",
                    optional=True,
                    tooltip="Photos of ONE person, from Detect Faces or Pick Faces; the largest face of each counts.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="Photos of the same person instead of, or besides, reference_faces.",
                ),
                IdentityType.Input(
                    "identity",
                    optional=True,
                    tooltip="The identity that was applied: then a judge that made it is refused.",
                ),
                io.Combo.Input(
                    "detector", options=list(DETECTORS), default="auto", tooltip="What finds faces, as in Detect Faces."
                ),
                io.Combo.Input(
                    "judge",
                    options=judge_options(),
                    default=AUTO,
                    tooltip="The recogniser that compares. auto: dlib, else a recogniser from models/insightface. What "
                    "made an identity, UniPortrait's backbone or PuLID's glintr100, cannot judge it.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "similarity", display_name="similarity", tooltip="Mean over the pictures: 0 strangers, 1 the same."
                ),
                io.Image.Output("image", display_name="image", tooltip="The pictures with each face's similarity."),
                io.String.Output("text", display_name="text", tooltip="The same in words, picture by picture."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        detector: str,
        judge: str,
        reference_faces: Faces | None = None,
        reference_image: torch.Tensor | None = None,
        identity: Identity | None = None,
    ) -> io.NodeOutput:
        chosen = _resolved(judge)
        warnings = _check_independence(chosen, identity)
        network = _load_judge(chosen)
        finder = load_detector(detector, model_folders(INSIGHTFACE))
        photos = [] if reference_image is None else look_at(pictures_from_tensor(reference_image), finder, [network])
        references = _reference_embeddings(network, reference_faces, photos)
        pictures = pictures_from_tensor(image)
        found = look_at(pictures, finder, [network])
        cosines = [similarities([references], faces.embeddings[network.name])[0] for faces in found]
        scores = [max(0.0, float(values.max(initial=0.0))) for values in cosines]
        drawn = preview_batch(
            [_marked(*each, network.threshold) for each in zip(pictures, found, cosines, strict=True)]
        )
        text = _summary(network, finder.name, scores, cosines, len(references))
        mean = float(np.mean(scores))
        return io.NodeOutput(mean, drawn, text, ui=shown(cls, text, warnings, drawn))

    @classmethod
    def validate_inputs(cls, judge: str) -> bool:
        """Let names of missing recognisers through: the error of `execute` says what to install."""
        return True


def judge_options() -> list[str]:
    """What the combo offers: auto, dlib, recognisers of insightface packs, the backbone of UniPortrait."""
    backbones = [name for name in file_options(BACKBONE, optional=True) if BACKBONE.keyword in name.lower()]
    return [AUTO, DLIB, *installed_recognisers(), *backbones]


def _resolved(name: str) -> str:
    """The judge that the combo named, with auto's choice. Raises ValueError that says what to install for auto."""
    if name != AUTO:
        return name
    if dlib_available():
        return DLIB
    recognisers = installed_recognisers()
    if not recognisers:
        raise ValueError(_NO_JUDGE)
    return next(iter(recognisers))


def _load_judge(name: str) -> Judge:
    """Raises ValueError that says where the judge was looked for."""
    if name == DLIB:
        return load_dlib()
    recognisers = installed_recognisers()
    if name in recognisers:
        return load_arcface(recognisers[name])
    if BACKBONE.keyword in name.lower():
        return load_curricular(find_file(BACKBONE, name, _NODE))
    searched = ", ".join(str(folder) for folder in recogniser_folders())
    raise ValueError(f"{_NODE}: the judge {name} was not found in {searched}. Choose auto, or put it there.")


def _check_independence(name: str, identity: Identity | None) -> list[str]:
    """Refuse the network that made the identity; warn of it where no identity says what was applied."""
    systems: tuple[str, ...]
    if BACKBONE.keyword in name.lower():
        made, systems = "UniPortrait", (UNIPORTRAIT,)
    elif name.rsplit("/", 1)[-1] == RECOGNISER.name:
        made, systems = "PuLID", tuple(EDITIONS)
    else:
        return []
    if identity is None:
        return [f"this recogniser conditions {made}; of pictures made with it the similarity says nothing by itself"]
    if identity.system in systems:
        raise ValueError(
            f"{_NODE}: the identity was made with this recogniser, so the similarity would say nothing about likeness. "
            "Choose another judge, such as dlib."
        )
    return []


def _reference_embeddings(judge: Judge, faces: Faces | None, photos: list[FoundFaces]) -> np.ndarray:
    """Embeddings (p, d) of the largest face of each reference picture."""
    parts = []
    if faces is not None:
        shown_in = {face.image_index for face in faces}
        chosen = [
            max((face for face in faces if face.image_index == index), key=lambda face: face.area)
            for index in sorted(shown_in)
        ]
        parts += [judge.embed(faces.images, [face]) for face in chosen]
    parts += [found.embeddings[judge.name][:1] for found in photos if found.faces]
    if not parts:
        connected = faces is not None or bool(photos)
        raise ValueError(
            f"{_NODE}: no face was found in the reference. Use a photo where the whole face is visible."
            if connected
            else f"{_NODE}: connect reference_faces or reference_image, so that there is somebody to compare to."
        )
    return np.concatenate(parts)


def _marked(picture: np.ndarray, found: FoundFaces, cosines: np.ndarray, threshold: float) -> np.ndarray:
    marks = [
        Mark(face.box, f"{value:.2f}", GOOD if value >= threshold else BAD)
        for face, value in zip(found.faces, cosines, strict=True)
    ]
    return draw_marks(picture, marks)


def _summary(judge: Judge, detector: str, scores: list[float], cosines: list[np.ndarray], num_photos: int) -> str:
    lines = [
        f"similarity {np.mean(scores):.2f} to {counted(num_photos, 'photo')} (judge {judge.name}, one person from "
        f"{judge.threshold:.2f}; {detector} detector)"
    ]
    if len(scores) > 1:
        lines += [
            f"picture {number}: {score:.2f}" if len(values) else f"picture {number}: no face"
            for number, (score, values) in enumerate(zip(scores, cosines, strict=True), 1)
        ]
    elif not len(cosines[0]):
        lines.append("no face in the picture")
    return "\n".join(lines)
