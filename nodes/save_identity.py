"""The node Save Identity."""

from __future__ import annotations

from comfy_api.latest import io

from ..adapters.identity import Identity, save_identity
from .identity_files import clean_name, path_to_save
from .previews import shown
from .types import IdentityType


class SaveIdentity(io.ComfyNode):
    """Writes an identity to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_SaveIdentity",
            display_name="Save Identity",
            category="Likeness/identity",
            description="Writes an identity to one small file below output/identities. The file holds no photo.",
            search_aliases=["save face", "export identity", "save embedding", "face model"],
            inputs=[
                IdentityType.Input("identity", tooltip="From Encode Identity or Mix Identities."),
                io.String.Input(
                    "filename",
                    default="",
                    tooltip="Name of the file, without a folder. Empty: the identity's label. Characters that a file "
                    "name cannot hold become _.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace a file of this name. Off: a new one gets a number.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, identity: Identity, filename: str, overwrite: bool) -> io.NodeOutput:
        if identity.is_nobody:
            raise ValueError("Save Identity: no photo of this person showed a face, so there is nothing to save.")
        path = path_to_save(clean_name(filename) or clean_name(identity.label) or "identity", overwrite)
        try:
            save_identity(identity, path)
        except OSError as error:
            raise ValueError(f"Save Identity: {path} could not be written: {error}") from error
        return io.NodeOutput(ui=shown(cls, f"Saved {path}"))
