"""The workflows that the pack ships, put onto the tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..host.environment import ROOT
from .tiny_models import TinyModels

FOLDER = ROOT / "workflows" / "api"
EditableGraph = dict[str, dict[str, Any]]  # ComfyUI's API format: {node id: {"class_type", "inputs", "_meta"}}

# Published file name -> its counterpart in TinyModels. UniPortrait's own tiny files carry the published names.
COUNTERPARTS = {
    "realisticVisionV51_v51VAE.safetensors": "checkpoint",
    "control_v11p_sd15_openpose.pth": "controlnet",
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": "clip_vision",
}
LOADERS = {"CLIPVisionLoader": "LikenessDemo_LoadCLIPVision"}  # the stock loader refuses the tiny tower


def shipped_workflow(name: str) -> EditableGraph:
    """Read the API form of workflows/<name>.json, a new object at each call."""
    graph: EditableGraph = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return graph


def on_tiny_models(graph: EditableGraph, models: TinyModels, pictures: Mapping[str, str]) -> EditableGraph:
    """Return the graph with the tiny models in place of the published ones.

    `pictures` maps file names that the workflow's Load Image nodes show to names in ComfyUI's input folder.
    """
    names = {published: getattr(models, field) for published, field in COUNTERPARTS.items()} | dict(pictures)
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


def without_people(graph: EditableGraph) -> EditableGraph:
    """Return the stock nodes of the graph alone: the sampler takes the checkpoint's model, our nodes are gone."""
    (checkpoint,) = nodes_of(graph, "CheckpointLoaderSimple")
    graph = change(graph, "KSampler", model=[checkpoint, 0])
    return {node_id: node for node_id, node in graph.items() if not node["class_type"].startswith("Likeness_")}
