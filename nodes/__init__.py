"""What the user drags: the pack's nodes and their registration."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_pulid import ApplyPuLID
from .apply_uniid import ApplyUniID
from .apply_uniportrait import ApplyUniPortrait
from .class_word import ClassWord
from .complete_pulid import CompletePuLID
from .detect_faces import DetectFaces
from .encode_identity import EncodeIdentity
from .faces_from_boxes import FacesFromBoxes
from .load_eva_clip import LoadEvaClip
from .load_face_recogniser import LoadFaceRecogniser
from .load_identity import LoadIdentity
from .load_pulid import LoadPuLID
from .load_uniid import LoadUniID
from .load_uniportrait import LoadUniPortrait
from .mix_identities import MixIdentities
from .model_folders import register_model_folders
from .name_norms import NameNorms
from .pick_faces import PickFaces
from .pulid_from_photo import PuLIDFromPhoto
from .pulid_options import PuLIDOptions
from .replacements import register_replacements
from .routing_maps import RoutingMaps
from .save_identity import SaveIdentity
from .similarity import IdentitySimilarity


class LikenessExtension(ComfyExtension):
    """The pack as ComfyUI loads it."""

    async def on_load(self) -> None:
        """Make the pack's model folders known, and the nodes of older packs that it replaces."""
        register_model_folders()
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in the order in which a graph uses them."""
        return [
            DetectFaces,
            FacesFromBoxes,
            PickFaces,
            LoadUniPortrait,
            LoadEvaClip,
            LoadFaceRecogniser,
            LoadPuLID,
            PuLIDOptions,
            NameNorms,
            LoadUniID,
            ClassWord,
            EncodeIdentity,
            MixIdentities,
            SaveIdentity,
            LoadIdentity,
            ApplyUniPortrait,
            ApplyPuLID,
            ApplyUniID,
            PuLIDFromPhoto,
            CompletePuLID,
            RoutingMaps,
            IdentitySimilarity,
        ]
