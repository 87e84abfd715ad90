"""The shipped workflows on a real server with the tiny trained models and people whom they have not seen."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from likeness.demo.tiny_models import TRAINED, write_tiny_models
from likeness.demo.tiny_pulid import write_tiny_pulid_models
from likeness.demo.tiny_uniid import write_tiny_uniid_models
from likeness.demo.workflow import EditableGraph, nodes_of, on_tiny_models, shipped_workflow
from likeness.host.client import ComfyClient
from likeness.synthetic.people import test_people
from likeness.synthetic.render import render
from likeness.synthetic.scene import Scene, draw_reference, draw_scene
from PIL import Image, ImageDraw

LARGEST = 192  # pixels of the longer side: 512 x 512 becomes 128 x 128, 896 x 1152 becomes 112 x 144
SIZED = ("EmptyLatentImage", "EmptySD3LatentImage", "ModelSamplingFlux")  # nodes that are told the picture's size
STEPS = 3


@dataclass
class Stage:
    """Runs graphs; `pictures` maps the file names that the workflows show to names in ComfyUI's input folder."""

    client: ComfyClient
    pictures: Mapping[str, str]
    runs: int = 0

    def graph(self, name: str) -> EditableGraph:
        """A shipped workflow on the tiny models, small and short."""
        graph = on_tiny_models(shipped_workflow(name), self.pictures)
        for node_id in (node_id for kind in SIZED for node_id in nodes_of(graph, kind)):
            inputs = graph[node_id]["inputs"]
            shrink = 8 if max(inputs["width"], inputs["height"]) > 4 * LARGEST else 4
            inputs.update(width=inputs["width"] // shrink, height=inputs["height"] // shrink)
        for node_id in nodes_of(graph, "KSampler"):
            graph[node_id]["inputs"]["steps"] = STEPS
        return graph

    def change(self, graph: EditableGraph, class_type: str, which: int = 0, **inputs: Any) -> EditableGraph:
        """A copy of the graph with other inputs at one node."""
        node_id = nodes_of(graph, class_type)[which]
        return {**graph, node_id: {**graph[node_id], "inputs": {**graph[node_id]["inputs"], **inputs}}}

    def draw(self, graph: EditableGraph, **run: Any) -> np.ndarray:
        """Sample anew, whatever the server has cached, and return the saved picture (H, W, 3) in [0, 255]."""
        (picture,) = self.draw_batch(graph, **run)
        return picture

    def draw_batch(self, graph: EditableGraph, **run: Any) -> list[np.ndarray]:
        """The same for a graph that saves several pictures at once."""
        self.runs += 1
        sampler, negative = self._sampler(graph)
        inputs = graph[negative]["inputs"]
        # Trailing spaces do not reach the text encoder, but ComfyUI's cache takes it for another prompt.
        inputs = {**inputs, "text": inputs["text"] + " " * self.runs}
        entry = self.client.run({**graph, negative: {**graph[negative], "inputs": inputs}}, **run)
        cached = next(event["nodes"] for name, event in entry["status"]["messages"] if name == "execution_cached")
        assert sampler not in cached
        images = entry["outputs"][nodes_of(graph, "SaveImage")[0]]["images"]
        pictures = [Image.open(io.BytesIO(self.client.view(image))) for image in images]
        return [np.asarray(picture.convert("RGB"), np.float32) for picture in pictures]

    def _sampler(self, graph: EditableGraph) -> tuple[str, str]:
        """The sampler's id, and that of the node with the negative prompt, be a ControlNet between them or not."""
        (sampler,) = nodes_of(graph, "KSampler")
        negative = graph[sampler]["inputs"]["negative"][0]
        while not isinstance(graph[negative]["inputs"].get("text"), str):
            negative = graph[negative]["inputs"]["negative"][0]
        return sampler, negative


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for each name that a workflow shows in Load Image, and one more, all of people that are not known."""
    folder = tmp_path_factory.mktemp("photographs")
    first, second, third, stranger = test_people(4)
    pose = Image.new("RGB", (256, 256))
    lines = ImageDraw.Draw(pose)
    for line, colour in (((128, 60, 128, 140), "red"), ((70, 110, 186, 60), "lime"), ((90, 220, 128, 140), "blue")):
        lines.line(line, fill=colour, width=6)
    pictures = {
        "person-1.jpg": _photo(draw_reference(first)),
        "person-2.jpg": _photo(draw_scene((second, third, stranger), 1, (256, 768))),  # a node takes the largest
        "person-3.jpg": _photo(draw_reference(third)),
        "stranger.jpg": _photo(draw_reference(stranger)),  # in no workflow
        **{f"person-1-photo-{number}.jpg": _photo(draw_reference(first, number)) for number in (1, 2, 3)},
        "pose.png": pose,
    }
    for name, picture in pictures.items():
        picture.save(folder / name, quality=95)
    return {name: folder / name for name in pictures}


def _photo(scene: Scene) -> Image.Image:
    return Image.fromarray(render([scene]).pixels()[0])


@pytest.fixture(scope="session")
def make_stage(photographs: dict[str, Path]) -> Callable[[Any], Stage]:
    """`make_stage(server)` puts models and photographs onto a server."""

    def make(server: Any) -> Stage:
        write_tiny_models(server.folder / "models", weights=TRAINED)
        write_tiny_pulid_models(server.folder / "models")
        write_tiny_uniid_models(server.folder / "models")
        pictures = {name: server.client.upload(path, f"test-{name}") for name, path in photographs.items()}
        return Stage(server.client, pictures)

    return make


@pytest.fixture(scope="session")
def stage(comfy_server: Any, make_stage: Callable[[Any], Stage]) -> Stage:
    return make_stage(comfy_server)
