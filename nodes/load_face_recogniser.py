"""The node Load Face Recogniser."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..faces.arcface import ArcFace
from ..faces.onnx_sessions import AUTO, PROVIDERS
from .model_files import RECOGNISER
from .model_folders import file_state
from .previews import shown
from .recognisers import installed_recognisers, recogniser_folders, usual_recogniser, usual_state
from .types import RecogniserType


class LoadFaceRecogniser(io.ComfyNode):
    """Loads the network by which PuLID recognises a face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_LoadFaceRecogniser",
            display_name="Load Face Recogniser",
            category="Likeness/PuLID",
            description="Loads the network by which PuLID recognises a face, where another one or another device than "
            "the usual is wanted. Without this node Load PuLID takes glintr100 of antelopev2.",
            search_aliases=["insightface", "antelopev2", "arcface", "face analysis", "glintr100", "onnx provider"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[AUTO, *installed_recognisers()],
                    default=AUTO,
                    tooltip="auto: glintr100.onnx of antelopev2, with which PuLID was trained. Another recogniser fits "
                    "only a PuLID that was trained with it. From models/insightface.",
                ),
                io.Combo.Input(
                    "provider",
                    options=[AUTO, *PROVIDERS],
                    default=AUTO,
                    tooltip="Where it computes. auto: what onnxruntime prefers. CPU saves graphics memory. One that is "
                    "not installed is replaced by the CPU.",
                ),
            ],
            outputs=[RecogniserType.Output("recogniser", display_name="recogniser", tooltip="For Load PuLID.")],
        )

    @classmethod
    def execute(cls, file: str, provider: str) -> io.NodeOutput:
        recogniser = usual_recogniser(provider) if file == AUTO else _named_recogniser(file, provider)
        licence = f" (licence: {RECOGNISER.licence})" if RECOGNISER.keyword in recogniser.name else ""
        return io.NodeOutput(recogniser, ui=shown(cls, recogniser.name + licence))

    @classmethod
    def validate_inputs(cls, file: str) -> bool:
        """Let names of missing files through: the error of `execute` says more."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> tuple[int, int] | None:
        """Load again when the file was replaced."""
        file = str(inputs.get("file"))
        return usual_state() if file == AUTO else file_state(installed_recognisers().get(file))


def _named_recogniser(name: str, provider: str) -> ArcFace:
    path = installed_recognisers().get(name)
    if path is None:
        searched = ", ".join(str(folder) for folder in recogniser_folders())
        raise ValueError(f"Load Face Recogniser: {name} was not found in {searched}. Choose auto, or put it there.")
    return ArcFace(path.read_bytes(), str(path), provider)
