"""The node Load PuLID, and how an adapter gets what sees photos."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import comfy.ops
from comfy_api.latest import io

from ..adapters.checkpoint import read_tensors
from ..adapters.families import FACE_PARSER
from ..adapters.pulid import PuLID, load_pulid
from ..faces.arcface import ArcFace
from ..faces.parsing import FaceParser
from ..model_patches.managed import managed_whole
from ..model_patches.pulid import NAMES
from ..model_patches.pulid_encoder import PulidEncoder
from ..model_patches.pulid_models import PulidModels
from .damaged_files import published_sizes
from .model_files import (
    AUTO,
    PARSER,
    PULID_FLUX,
    PULID_V1,
    PULID_V1_1,
    ModelFile,
    check_kind,
    chosen_state,
    file_options,
    find_file,
)
from .previews import shown
from .recognisers import usual_recogniser, usual_state
from .types import AdapterType, EvaClipType, RecogniserType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

_NODE = "Load PuLID"


class LoadPuLID(io.ComfyNode):
    """Loads a file of PuLID, of whichever edition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = file_options(PULID_V1_1)
        return io.Schema(
            node_id="Likeness_LoadPuLID",
            display_name="Load PuLID",
            category="Likeness/PuLID",
            description="Loads PuLID, which draws people with an SDXL or FLUX model. The file says by its contents "
            "which edition it is; the node shows it.",
            search_aliases=["pulid", "faceid", "identity adapter", "load adapter", "sdxl face", "flux face"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files,
                    default=files[0],
                    tooltip="pulid_v1.1.safetensors or pulid_v1.bin for SDXL, pulid_flux_v0.9.1.safetensors for FLUX; "
                    "ip-adapter_pulid_sdxl_fp16.safetensors works too. From models/pulid.",
                ),
                io.Combo.Input(
                    "parser",
                    options=file_options(PARSER, auto=True),
                    default=AUTO,
                    advanced=True,
                    tooltip="parsing_bisenet.pth, which tells face and hair from the rest. Read only where EVA-CLIP is "
                    "connected. From models/facexlib or models/pulid. auto: the one found.",
                ),
                EvaClipType.Input(
                    "eva_clip",
                    optional=True,
                    tooltip="From Load EVA-CLIP, to encode photos. Without it saved identities still work.",
                ),
                RecogniserType.Input(
                    "recogniser",
                    optional=True,
                    tooltip="From Load Face Recogniser, for another device or another network. Without it "
                    "glintr100.onnx of antelopev2 in models/insightface is used.",
                ),
            ],
            outputs=[AdapterType.Output("adapter", display_name="adapter", tooltip="For Encode Identity and Apply.")],
        )

    @classmethod
    @published_sizes()
    def execute(
        cls, file: str, parser: str, eva_clip: ModelPatcher | None = None, recogniser: ArcFace | None = None
    ) -> io.NodeOutput:
        weights = load_pulid(find_file(_published(file), file, _NODE), operations=comfy.ops.manual_cast)
        models = PulidModels(weights)
        if eva_clip is not None:
            models = with_encoder(models, eva_clip, parser, recogniser)
        return io.NodeOutput(models, ui=shown(cls, _description(weights)))

    @classmethod
    def validate_inputs(cls, file: str, parser: str) -> bool:
        """Let names of missing files through: the error of `execute` says where such a file comes from."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> dict[str, tuple[int, int] | None]:
        """Load again when a file was replaced."""
        wanted = {"file": PULID_V1_1, "parser": PARSER}
        states = {slot: chosen_state(kind, str(inputs.get(slot))) for slot, kind in wanted.items()}
        return {**states, "recogniser": usual_state()}


def with_encoder(
    models: PulidModels, eva_clip: ModelPatcher, parser: str = AUTO, recogniser: ArcFace | None = None
) -> PulidModels:
    """The same adapter, with what sees photos.

    Raises:
        ValueError: a file is missing or another kind of model, or a network does not fit the adapter.
    """
    network = managed_whole(load_parser(parser))
    complete = copy.copy(models)
    try:
        complete.encoder = PulidEncoder(models.weights, eva_clip, network, recogniser or usual_recogniser())
    except ValueError as error:
        raise ValueError(f"{_NODE}: {error}") from error
    return complete


def load_parser(name: str) -> FaceParser:
    """The face parser in a file.

    Raises:
        CheckpointError: the file is damaged or another kind of model.
        ValueError: it is missing or incomplete.
    """
    file = read_tensors(find_file(PARSER, name, _NODE))
    check_kind(file, FACE_PARSER, PARSER, "parser")
    return FaceParser.from_state_dict(file.tensors, file.name, operations=comfy.ops.manual_cast)


def _published(name: str) -> ModelFile:
    """Which published file a name means, so that an error can say where that one comes from."""
    editions = (PULID_V1_1, PULID_V1, PULID_FLUX)
    return next((file for file in editions if name.startswith((file.name, *file.editions))), PULID_V1_1)


def _description(weights: PuLID) -> str:
    parts = (
        f"{weights.sizes.num_blocks} blocks"
        if weights.blocks is not None
        else f"{len(weights.sizes.layers) // 2} layers"
    )
    return f"{NAMES[weights.edition]}, {parts}: use it with {weights.base} models"
