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

# Published file name -> its counterpart. The tiny files of UniPortrait and PuLID carry the published names.
COUNTERPARTS = {
    "realisticVisionV51_v51VAE.safetensors": TinyModels.checkpoint,
    "control_v11p_sd15_openpose.pth": TinyModels.controlnet,
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": TinyModels.clip_vision,
    "sd_xl_base_1.0.safetensors": TinyPulidModels.sdxl,
    "sdxl_lightning_4step.safetensors": TinyPulidModels.sdxl,
    "OpenPoseXL2.safetensors": TinyPulidModels.controlnet,
    "flux1-dev-fp8.safetensors": TinyPulidModels.flux,
}
APPLYING = ("Likeness_ApplyUniPortrait", "Likeness_ApplyPuLID")
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


def applying(graph: EditableGraph) -> str:
    """Return the class of the one kind of node in the graph that puts people into the model."""
    (kind,) = (kind for kind in APPLYING if nodes_of(graph, kind))
    return kind


def without_people(graph: EditableGraph) -> EditableGraph:
    """Return the stock nodes of the graph alone: the sampler takes the model as it was, our nodes are gone."""
    (node_id,) = nodes_of(graph, applying(graph))
    graph = change(graph, "KSampler", model=graph[node_id]["inputs"]["model"])
    return {node_id: node for node_id, node in graph.items() if not node["class_type"].startswith("Likeness_")}
