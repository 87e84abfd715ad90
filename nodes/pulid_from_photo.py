"""The node PuLID from Photo: one person from photo to model, and what nodes of older packs become."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..adapters.pulid_attention import PRESETS
from ..adapters.references import JOININGS
from ..model_patches.identity_patch import SHARING
from .apply_pulid import AUTO, CUSTOM, MOST_ZEROS, strength_input
from .encode_identity import STRUCTURE_SCALE
from .people import window_inputs
from .pulid_options import MOST_SEEDS, ONE_FACE, SHRINKING
from .reference_faces import NO_FACE
from .types import AdapterType, EvaClipType, RecogniserType

PROJECTIONS = {"ortho_v2": "ortho_v2", "ortho": "ortho", "none": "plain"}  # as older packs call the forms

Link = list[Any]  # [id of a node, number of its output]


class PuLIDFromPhoto(io.ComfyNode):
    """Stands for Detect Faces, Encode Identity and Apply PuLID, and becomes these three when it runs.

    So the photo is encoded once, and not again for each change of the strength.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_PuLIDFromPhoto",
            display_name="PuLID from Photo",
            category="Likeness/PuLID",
            description="One person from photo to model in one node: Detect Faces, Encode Identity and Apply PuLID "
            "together. Workflows of older PuLID packs open with it.",
            search_aliases=["apply pulid", "pulid advanced", "pulid flux", "face to model", "easy pulid"],
            inputs=[*_links(), _method_input(), strength_input("id_scale", 0.8), *window_inputs(), *_fine_settings()],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The model that draws this person."),
                io.Image.Output(
                    "crops", display_name="crops", tooltip="The faces as PuLID saw them, in grey on white."
                ),
            ],
            enable_expand=True,
        )

    @classmethod
    def execute(
        cls,
        model: Link,
        adapter: Link,
        image: Link,
        method: str,
        id_scale: float,
        start_percent: float,
        end_percent: float,
        projection: str,
        num_zero: int,
        noise: float,
        noise_seed: int,
        joining: str,
        no_face: str,
        eva_clip: Link | None = None,
        recogniser: Link | None = None,
        mask: Link | None = None,
    ) -> io.NodeOutput:
        graph = GraphBuilder()
        networks = {name: link for name, link in (("eva_clip", eva_clip), ("recogniser", recogniser)) if link}
        complete = graph.node("Likeness_CompletePuLID", adapter=adapter, **networks).out(0)
        options = graph.node(
            "Likeness_PuLIDOptions",
            joining=joining,
            faces=ONE_FACE,
            shrinking=next(iter(SHRINKING)),
            noise=noise,
            noise_seed=noise_seed,
        )
        person = graph.node(
            "Likeness_EncodeIdentity",
            adapter=complete,
            structure_scale=STRUCTURE_SCALE,
            label="",
            no_face=no_face,
            pulid_options=options.out(0),
            **{"faces.faces_1": graph.node("Likeness_DetectFaces", image=image, detector="auto").out(0)},
        )
        how: dict[str, Any] = {"method": method}
        if method == CUSTOM:
            how |= {"method.form": PROJECTIONS[projection], "method.num_zero": num_zero}
        where = {"masks.mask_1": mask} if mask else {}
        applied = graph.node(
            "Likeness_ApplyPuLID",
            model=model,
            adapter=complete,
            id_scale=id_scale,
            start_percent=start_percent,
            end_percent=end_percent,
            sharing=SHARING[0],
            keep_soft_edges=True,
            **{"identities.identity_1": person.out(0)},
            **how,
            **where,
        )
        return io.NodeOutput(applied.out(0), person.out(1), expand=graph.finalize())


def _links() -> list[io.Input]:
    """What is handed on as a link, so that it is computed where it is used."""
    return [
        io.Model.Input("model", raw_link=True, tooltip="An SDXL or a FLUX.1 model, whichever the adapter is for."),
        AdapterType.Input("adapter", raw_link=True, tooltip="From Load PuLID."),
        io.Image.Input("image", raw_link=True, tooltip="Photos of ONE person; the largest face of each is used."),
        EvaClipType.Input(
            "eva_clip",
            optional=True,
            raw_link=True,
            tooltip="From Load EVA-CLIP. Not needed if it is connected to Load PuLID.",
        ),
        RecogniserType.Input(
            "recogniser",
            optional=True,
            raw_link=True,
            tooltip="From Load Face Recogniser. Without it glintr100.onnx of antelopev2 is used.",
        ),
        io.Mask.Input(
            "mask", optional=True, raw_link=True, tooltip="Where the person may appear, in the shape of the picture."
        ),
    ]


def _method_input() -> io.Input:
    return io.Combo.Input(
        "method",
        options=[AUTO, *PRESETS, CUSTOM],
        default=AUTO,
        tooltip="SDXL only, as in Apply PuLID. custom: projection and num_zero below.",
    )


def _fine_settings() -> list[io.Input]:
    return [
        io.Combo.Input(
            "projection",
            options=list(PROJECTIONS),
            default="ortho_v2",
            advanced=True,
            tooltip="Only for method custom: the form in which the face is added.",
        ),
        io.Int.Input(
            "num_zero",
            default=8,
            min=0,
            max=MOST_ZEROS,
            advanced=True,
            tooltip="Only for method custom: zero tokens, called fidelity in older packs. More leave more to the "
            "prompt.",
        ),
        io.Float.Input(
            "noise",
            default=0.0,
            min=-1.0,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip="Noise in the place of nobody, whom the negative prompt shows; 0 is as published.",
        ),
        io.Int.Input(
            "noise_seed",
            default=0,
            min=0,
            max=MOST_SEEDS,
            control_after_generate=False,  # or the browser draws another one for each run, by this name
            advanced=True,
            tooltip="Seed of that noise.",
        ),
        io.Combo.Input(
            "joining",
            options=list(JOININGS),
            default=JOININGS[0],
            advanced=True,
            tooltip="How several photos become one person, as in PuLID Options. Older packs: mean.",
        ),
        io.Combo.Input(
            "no_face",
            options=list(NO_FACE),
            default=NO_FACE[0],
            advanced=True,
            tooltip="What to do without a face, as in Encode Identity. leave person out: the model is unchanged.",
        ),
    ]
