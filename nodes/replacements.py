"""Nodes of older PuLID packs and what they become.

ComfyUI has a way of replacing missing nodes one by one: values and links are handed on as they are, and fixed values
can be set. In the browser the user is asked, and gets our nodes; the same table serves there and for graphs that come
by /prompt (see `replace_old_nodes`). Where a pack with these nodes is installed, its own are used.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import ComfyAPI, io


@dataclass(frozen=True)
class OldNode:
    """A node of another pack.

    Attributes:
        old: its id there.
        new: the node of ours.
        widgets: its widgets in their order, with their defaults; saved workflows hold values by position.
        inputs: input of the new node -> input or widget of the old one.
        fixed: input of the new node -> value.
        outputs: how many outputs are handed on; each keeps its number.
    """

    old: str
    new: str
    widgets: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def for_browser(self) -> io.NodeReplace:
        """The same in ComfyUI's words."""
        carried = [{"new_id": new, "old_id": old} for new, old in self.inputs.items()]
        fixed = [{"new_id": new, "set_value": value} for new, value in self.fixed.items()]
        return _SameOutputs(self.new, self.old, list(self.widgets), [*carried, *fixed], self.outputs)

    def replaced(self, node: dict[str, Any]) -> dict[str, Any]:
        """A node of a graph in ComfyUI's API format, as ours; what is neither connected nor set is the old default."""
        given = node.get("inputs") or {}
        carried = {new: given.get(old, self.widgets.get(old)) for new, old in self.inputs.items()}
        present = {new: value for new, value in carried.items() if value is not None}
        return {**node, "class_type": self.new, "inputs": {**present, **self.fixed}}


class _SameOutputs(io.NodeReplace):
    """A replacement whose outputs keep their numbers: the browser wants that said, and the server must not hear it.

    Told to renumber outputs, it looks for the node behind under input names that it may have replaced already.
    """

    def __init__(self, new: str, old: str, widgets: list[str], inputs: list[dict[str, Any]], num_outputs: int) -> None:
        super().__init__(new_node_id=new, old_node_id=old, old_widget_ids=widgets, input_mapping=inputs)
        self.num_outputs = num_outputs

    def as_dict(self) -> dict[str, Any]:
        kept = [{"new_idx": number, "old_idx": number} for number in range(self.num_outputs)]
        return {**super().as_dict(), "output_mapping": kept}


def _loaders(infix: str) -> list[OldNode]:
    """The loaders, which the packs for SDXL and FLUX have under two sets of names."""
    file = {"file": "auto"}
    return [
        OldNode(
            f"Pulid{infix}ModelLoader",
            "Likeness_LoadPuLID",
            {"pulid_file": ""},
            {"file": "pulid_file"},
            {"parser": "auto"},
        ),
        OldNode(
            f"Pulid{infix}InsightFaceLoader",
            "Likeness_LoadFaceRecogniser",
            {"provider": "CPU"},
            {"provider": "provider"},
            file,
        ),
        OldNode(f"Pulid{infix}EvaClipLoader", "Likeness_LoadEvaClip", fixed=file),
    ]


_WINDOW = {"id_scale": "weight", "start_percent": "start_at", "end_percent": "end_at"}
_LINKS = {
    "model": "model",
    "image": "image",
    "eva_clip": "eva_clip",
    "recogniser": "face_analysis",
    "mask": "attn_mask",
}
_STRENGTH = {"weight": 1.0, "start_at": 0.0, "end_at": 1.0}
_PUBLISHED = {"projection": "ortho_v2", "num_zero": 8, "noise": 0.0}
_ALIKE = {"noise_seed": 0, "joining": "mean"}  # these packs average the photos

OLD_NODES = (
    *_loaders(""),
    *_loaders("Flux"),
    OldNode(
        "ApplyPulid",
        "Likeness_PuLIDFromPhoto",
        {"method": "fidelity", **_STRENGTH},
        {**_LINKS, "adapter": "pulid", "method": "method", **_WINDOW},
        {**_PUBLISHED, **_ALIKE, "no_face": "error"},
    ),
    OldNode(
        "ApplyPulidAdvanced",
        "Likeness_PuLIDFromPhoto",
        {"weight": 1.0, "projection": "ortho_v2", "fidelity": 8, "noise": 0.0, "start_at": 0.0, "end_at": 1.0},
        {
            **_LINKS,
            "adapter": "pulid",
            "projection": "projection",
            "num_zero": "fidelity",
            "noise": "noise",
            **_WINDOW,
        },
        {**_ALIKE, "method": "custom", "no_face": "error"},
    ),
    OldNode(
        "ApplyPulidFlux",
        "Likeness_PuLIDFromPhoto",
        _STRENGTH,  # what follows is another thing in each of the packs that have a node of this id
        {**_LINKS, "adapter": "pulid_flux", **_WINDOW},
        {**_PUBLISHED, **_ALIKE, "method": "auto", "no_face": "skip picture"},
        outputs=2,
    ),
)


async def register_replacements() -> None:
    """Tell ComfyUI's server what older nodes become. Where there is none, as in a script, nothing asks for it."""
    server = _running_server()
    if server is None:
        return
    for node in OLD_NODES:
        await ComfyAPI().node_replacement.register(node.for_browser())
    server.add_on_prompt_handler(replace_old_nodes)


def replace_old_nodes(data: dict[str, Any]) -> dict[str, Any]:
    """A request to /prompt whose older nodes are ours; others, and those that are installed, stay as they are.

    ComfyUI 0.30 would replace them itself right after this, but fails where an optional input is not connected, where
    a node has no title, and where two nodes that are connected are both replaced.
    """
    from nodes import NODE_CLASS_MAPPINGS

    missing = {node.old: node for node in OLD_NODES if node.old not in NODE_CLASS_MAPPINGS}
    prompt = data.get("prompt")
    if isinstance(prompt, dict):
        for number, node in prompt.items():
            if isinstance(node, dict) and node.get("class_type") in missing:
                prompt[number] = missing[node["class_type"]].replaced(node)
    return data


def _running_server() -> Any:
    module = sys.modules.get("server")  # ComfyUI's; importing it starts nothing, but takes seconds
    return getattr(getattr(module, "PromptServer", None), "instance", None)
