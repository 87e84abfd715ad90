"""The node Load UniID."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.ops
from comfy_api.latest import io

from ..adapters.checkpoint import read_tensors
from ..adapters.families import IRESNET
from ..adapters.uniid import UniID, load_uniid
from ..faces.iresnet import IResNet
from ..model_patches.managed import managed
from ..model_patches.uniid_encoder import UniidEncoder
from ..model_patches.uniid_models import UniidModels
from .damaged_files import published_sizes
from .model_files import (
    AUTO,
    NONE,
    UNIID_ADAPTER_BRANCH,
    UNIID_BACKBONE,
    UNIID_TEXT_BRANCH,
    advice,
    check_kind,
    chosen_state,
    file_options,
    find_file,
    likely_or_none,
)
from .previews import shown
from .types import AdapterType, NameNormsType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..model_patches.name_norms import NameNorms

_BRANCHES = {"text_branch": UNIID_TEXT_BRANCH, "adapter_branch": UNIID_ADAPTER_BRANCH}
_SLOTS = {**_BRANCHES, "backbone": UNIID_BACKBONE}
_NODE = "Load UniID"


class LoadUniID(io.ComfyNode):
    """Loads the files of UniID: one branch, or both."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_LoadUniID",
            display_name="Load UniID",
            category="Likeness/UniID",
            description="Loads UniID, which draws people with an SDXL model: as words of the prompt (text branch), in "
            "every layer (adapter branch), or both.",
            search_aliases=["uniid", "faceid", "identity adapter", "load adapter", "sdxl face", "text branch"],
            inputs=[
                _branch_input(
                    "text_branch", "The text branch, by which a person becomes words of the prompt. (none): without it."
                ),
                _branch_input(
                    "adapter_branch",
                    "The adapter branch, which shows the person to every layer and can be masked. (none): without it.",
                ),
                io.Combo.Input(
                    "backbone",
                    options=file_options(UNIID_BACKBONE, optional=True, auto=True),
                    default=AUTO,
                    tooltip="backbone.pth of glint360k_cosface_r100, which sees the photos. auto: the one found. "
                    "(none): saved identities only. From models/uniid.",
                ),
                NameNormsType.Input(
                    "name_norms",
                    optional=True,
                    tooltip="From Name Norms: how long a person's words should be, for this adapter and all who are "
                    "encoded with it. Apply UniID takes them too.",
                ),
            ],
            outputs=[AdapterType.Output("adapter", display_name="adapter", tooltip="For Encode Identity and Apply.")],
        )

    @classmethod
    @published_sizes()
    def execute(
        cls, text_branch: str, adapter_branch: str, backbone: str, name_norms: NameNorms | None = None
    ) -> io.NodeOutput:
        chosen = {"text_branch": text_branch, "adapter_branch": adapter_branch}
        # One file may hold both branches, and then it may be chosen in both places.
        paths = dict.fromkeys(
            find_file(wanted, chosen[slot], _NODE) for slot, wanted in _BRANCHES.items() if chosen[slot] != NONE
        )
        if not paths:
            wanted = " ".join(advice(file) for file in _BRANCHES.values())
            raise ValueError(f"{_NODE}: choose the text branch, the adapter branch, or both. {wanted}")
        weights = load_uniid(list(paths), operations=comfy.ops.manual_cast)
        if name_norms is not None:
            weights.name_norms = name_norms.values
        encoder = None
        if backbone != NONE:
            encoder = UniidEncoder(weights, load_backbone(find_file(UNIID_BACKBONE, backbone, _NODE)))
        return io.NodeOutput(UniidModels(weights, encoder), ui=shown(cls, _description(weights)))

    @classmethod
    def validate_inputs(cls, text_branch: str, adapter_branch: str, backbone: str) -> bool:
        """Let names of missing files through: the error of `execute` says where such a file comes from."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> dict[str, tuple[int, int] | None]:
        """Load again when a file was replaced."""
        return {slot: chosen_state(wanted, str(inputs.get(slot))) for slot, wanted in _SLOTS.items()}


def load_backbone(path: Path) -> ModelPatcher:
    """The face recognition backbone in a file.

    Raises:
        CheckpointError: the file is damaged or another kind of model.
        ValueError: it is incomplete.
    """
    file = read_tensors(path)
    check_kind(file, IRESNET, UNIID_BACKBONE, "backbone")
    return managed(IResNet.from_state_dict(file.tensors, operations=comfy.ops.manual_cast))


def _description(weights: UniID) -> str:
    parts = []
    if weights.sizes.text is not None:
        parts.append(f"text branch with {weights.sizes.text.num_tokens} words")
    if weights.sizes.adapter is not None:
        parts.append(f"adapter branch with {weights.sizes.adapter.num_tokens} tokens")
    norms = "" if weights.name_norms is None else ", with name norms"
    return f"UniID, {' and '.join(parts)}{norms}: use it with SDXL models"


def _branch_input(slot: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        slot,
        options=file_options(_BRANCHES[slot], optional=True),
        default=likely_or_none(_BRANCHES[slot]),
        tooltip=f"{tooltip} From models/uniid.",
    )
