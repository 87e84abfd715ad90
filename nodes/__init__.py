"""What the user drags: the pack's nodes and their registration."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_uniportrait import ApplyUniPortrait
from .detect_faces import DetectFaces
from .encode_identity import EncodeIdentity
from .faces_from_boxes import FacesFromBoxes
from .load_identity import LoadIdentity
from .load_uniportrait import LoadUniPortrait
from .mix_identities import MixIdentities
from .model_folders import register_model_folders
from .pick_faces import PickFaces
from .routing_maps import RoutingMaps
from .save_identity import SaveIdentity
from .similarity import IdentitySimilarity


class LikenessExtension(ComfyExtension):
    """The pack as ComfyUI loads it."""

    async def on_load(self) -> None:
        """Make the pack's model folders known."""
        register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in the order in which a graph uses them."""
        return [
            DetectFaces,
            FacesFromBoxes,
            PickFaces,
            LoadUniPortrait,
            EncodeIdentity,
            MixIdentities,
            SaveIdentity,
            LoadIdentity,
            ApplyUniPortrait,
            RoutingMaps,
            IdentitySimilarity,
        ]
