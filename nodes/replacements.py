"""Nodes of older PuLID packs and what they become: ComfyUI's own way of replacing nodes that are missing.

ComfyUI replaces node by node: it hands values and links on as they are and can set fixed ones. In the browser the user
is asked; graphs that come by /prompt are replaced without asking. Where a pack with these nodes is installed, its own
are used. Numbers and names here are facts about the packs (README and docs/migration.md say which).
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
        outputs: how many outputs are handed on, in their order.
    """

    old: str
    new: str
    widgets: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def replacement(self) -> io.NodeReplace:
        """The same for ComfyUI."""
        carried = [{"new_id": new, "old_id": old} for new, old in self.inputs.items()]
        fixed = [{"new_id": new, "set_value": value} for new, value in self.fixed.items()]
        return io.NodeReplace(
            new_node_id=self.new,
            old_node_id=self.old,
            old_widget_ids=list(self.widgets),
            input_mapping=[*carried, *fixed],
            output_mapping=[{"new_idx": number, "old_idx": number} for number in range(self.outputs)],
        )


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
        await ComfyAPI().node_replacement.register(node.replacement())
    server.add_on_prompt_handler(complete_old_nodes)


def complete_old_nodes(data: dict[str, Any]) -> dict[str, Any]:
    """A request to /prompt, in which older nodes have all of their inputs, as ComfyUI's replacing needs them.

    It fails on a graph where an optional input is not connected, or a node has no title. Nodes that are not of
    `OLD_NODES`, or that are installed, stay as they are.
    """
    from nodes import NODE_CLASS_MAPPINGS

    known = {node.old: node for node in OLD_NODES if node.old not in NODE_CLASS_MAPPINGS}
    prompt = data.get("prompt")
    for node in prompt.values() if isinstance(prompt, dict) else ():
        old = known.get(node.get("class_type")) if isinstance(node, dict) else None
        if old is None:
            continue
        node.setdefault("_meta", {"title": old.old})
        inputs = node.setdefault("inputs", {})
        for name in old.inputs.values():
            inputs.setdefault(name, old.widgets.get(name))
    return data


def _running_server() -> Any:
    module = sys.modules.get("server")  # ComfyUI's; importing it starts nothing, but takes seconds
    return getattr(getattr(module, "PromptServer", None), "instance", None)
