"""The node Load Identity."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..adapters.identity import load_identity
from .model_folders import IDENTITIES, file_state, model_folders
from .previews import shown
from .types import IdentityType

NOTHING_SAVED = "(no identity saved yet)"


class LoadIdentity(io.ComfyNode):
    """Reads a saved identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = folder_paths.get_filename_list(IDENTITIES) or [NOTHING_SAVED]
        return io.Schema(
            node_id="Likeness_LoadIdentity",
            display_name="Load Identity",
            category="Likeness/identity",
            description="Reads an identity that Save Identity wrote. It needs no photo and no encoder.",
            search_aliases=["load face", "import identity", "load embedding", "face model"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=names,
                    default=names[0],
                    tooltip="A file from models/likeness/identities or output/identities. Press R to see new ones.",
                )
            ],
            outputs=[
                IdentityType.Output(
                    "identity", display_name="identity", tooltip="The person, for the adapter that made it."
                )
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = folder_paths.get_full_path(IDENTITIES, file)
        if path is None:
            searched = ", ".join(str(folder) for folder in model_folders(IDENTITIES))
            start = "nothing is saved yet" if file == NOTHING_SAVED else f"{file} is not there"
            raise ValueError(f"Load Identity: {start} (searched: {searched}). Make one with Save Identity and press R.")
        identity = load_identity(path)
        return io.NodeOutput(identity, ui=shown(cls, f"{identity.label or file} ({identity.system})"))

    @classmethod
    def validate_inputs(cls, file: str) -> bool:
        """Let the name of a missing file through: the error of `execute` says more."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> tuple[int, int] | None:
        """Read again when the file was replaced."""
        return file_state(folder_paths.get_full_path(IDENTITIES, file))
