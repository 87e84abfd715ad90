"""The workflows that the pack ships, put onto the tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..host.environment import ROOT
from .tiny_models import TinyModels
from .tiny_pulid import TinyPulidModels

FOLDER = ROOT / "workflows" / "api"
EditableGraph = dict[str, dict[str, Any]]  # ComfyUI's API format: {node id: {"class_type", "inputs", "_meta"}}

# Published file name -> its counterpart. The tiny files of the three systems carry the published names.
COUNTERPARTS = {
    "realisticVisionV51_v51VAE.safetensors": TinyModels.checkpoint,
    "control_v11p_sd15_openpose.pth": TinyModels.controlnet,
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": TinyModels.clip_vision,
    "sd_xl_base_1.0.safetensors": TinyPulidModels.sdxl,
    "sdxl_lightning_4step.safetensors": TinyPulidModels.sdxl,
    "RealVisXL_V5.0_fp16.safetensors": TinyPulidModels.sdxl,
    "OpenPoseXL2.safetensors": TinyPulidModels.controlnet,
    "flux1-dev-fp8.safetensors": TinyPulidModels.flux,
}
_UNIID_SCALES = ("text_scale_before", "text_scale", "adapter_scale_before", "adapter_scale")
# The nodes that put people into a model, and the settings that switch each of them off.
SWITCHED_OFF: Mapping[str, Mapping[str, float]] = {
    "Likeness_ApplyUniPortrait": {"id_scale": 0.0},
    "Likeness_ApplyPuLID": {"id_scale": 0.0},
    "Likeness_ApplyUniID": dict.fromkeys(_UNIID_SCALES, 0.0),
}
LOADERS = {"CLIPVisionLoader": "LikenessDemo_LoadCLIPVision"}  # the stock loader refuses the tiny tower


def shipped_workflow(name: str) -> EditableGraph:
    """Read the API form of workflows/<name>.json, a new object at each call."""
    graph: EditableGraph = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return graph


def on_tiny_models(graph: EditableGraph, pictures: Mapping[str, str]) -> EditableGraph:
    """Return the graph with the tiny models in place of the published ones.

    `pictures` maps file names that the workflow's Load Image nodes show to names in ComfyUI's input folder.
    """
    names = COUNTERPARTS | dict(pictures)
    changed: EditableGraph = {}
    for node_id, node in graph.items():
        inputs = {
            key: names.get(value, value) if isinstance(value, str) else value for key, value in node["inputs"].items()
        }
        changed[node_id] = {**node, "class_type": LOADERS.get(node["class_type"], node["class_type"]), "inputs": inputs}
    return changed


def nodes_of(graph: EditableGraph, class_type: str) -> list[str]:
    """Return the ids of the nodes of one class, in the graph's order."""
    return [node_id for node_id, node in graph.items() if node["class_type"] == class_type]


def title(graph: EditableGraph, node_id: str) -> str:
    """Return the title that a node has in the browser."""
    node = graph[node_id]
    return str(node.get("_meta", {}).get("title") or node["class_type"])


def change(graph: EditableGraph, class_type: str, **inputs: Any) -> EditableGraph:
    """Return a copy of the graph with other inputs at the nodes of one class."""
    return {
        node_id: {**node, "inputs": {**node["inputs"], **inputs}} if node["class_type"] == class_type else node
        for node_id, node in graph.items()
    }


def applying(graph: EditableGraph) -> list[str]:
    """Return the ids of the nodes that put people into the model, in the graph's order."""
    return [node_id for node_id, node in graph.items() if node["class_type"] in SWITCHED_OFF]


def switched_off(graph: EditableGraph) -> EditableGraph:
    """Return the graph with all strengths at 0, and without Routing Maps, which would have nothing to show."""
    for class_type, settings in SWITCHED_OFF.items():
        graph = change(graph, class_type, **settings)
    return {node_id: node for node_id, node in graph.items() if node["class_type"] != "Likeness_RoutingMaps"}


def without_people(graph: EditableGraph) -> EditableGraph:
    """Return what is left without the nodes that put people in: what these changed is taken from before them.

    Of our nodes only those stay that write the prompt.
    """
    kept: EditableGraph = {}
    found = [node_id for node_id, node in graph.items() if not node["class_type"].startswith("Likeness_")]
    while found:
        node_id = found.pop()
        inputs = {name: _before_people(graph, value) for name, value in graph[node_id]["inputs"].items()}
        kept[node_id] = {**graph[node_id], "inputs": inputs}
        found += [value[0] for value in inputs.values() if isinstance(value, list) and value[0] not in kept]
    return {node_id: kept[node_id] for node_id in graph if node_id in kept}


def _before_people(graph: EditableGraph, value: Any) -> Any:
    """An input's value; a link to a node that puts people in becomes that node's own link to model or prompt."""
    while isinstance(value, list) and graph[value[0]]["class_type"] in SWITCHED_OFF:
        source, slot = value
        value = graph[source]["inputs"][("model", "positive")[slot]]
    return value
