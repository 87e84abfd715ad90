"""The workflow files against the nodes that a real server offers."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from likeness.host.environment import ROOT
from PIL import Image

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
EXPECTED = {
    "uniportrait-single-face",
    "uniportrait-several-references",
    "uniportrait-two-people",
    "uniportrait-three-people",
    "uniportrait-people-with-masks",
    "uniportrait-mix-two-people",
    "uniportrait-save-identity",
    "uniportrait-load-identity",
    "uniportrait-controlnet-pose",
    "pulid-sdxl-lightning",
    "pulid-sdxl-v1-1",
    "pulid-sdxl-two-people-with-masks",
    "pulid-sdxl-controlnet",
    "pulid-flux-photo",
    "pulid-flux-style",
    "pulid-flux-people-with-masks",
    "uniid-photo",
    "uniid-stylised",
    "uniid-two-people-with-masks",
    "uniid-text-with-pulid",
}
FRONTEND_ONLY = {"MarkdownNote"}
UPLOAD_WIDGET = "upload"  # the frontend adds it to Load Image
LARGEST_THUMBNAIL = 60_000  # bytes


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="session")
def node_classes(comfy_server: Any) -> dict[str, Any]:
    return comfy_server.client.object_info()


def allowed_inputs(schema: dict[str, Any]) -> dict[str, Any]:
    """Input name -> type, as an API graph spells it: the inputs of a growing list "faces" are "faces.faces_1", ...

    Those that come with a choice of "merge" are "merge.steps", ...
    """
    allowed = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in schema["input"].get(group, {}).items():
            if kind == "COMFY_AUTOGROW_V3":
                (inner,) = options[0]["template"]["input"]["required"].values()
                allowed |= {f"{name}.{member}": inner[0] for member in options[0]["template"]["names"]}
                continue
            allowed[name] = kind
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for choice in options[0]["options"]:
                    allowed |= {
                        f"{name}.{key}": inner[0] for key, inner in choice["inputs"].get("required", {}).items()
                    }
    return allowed


def needed_inputs(schema: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    """The inputs that have to be there, with the choices that are made."""
    for name, (kind, *options) in schema["input"].get("required", {}).items():
        if kind == "COMFY_AUTOGROW_V3":
            yield from (
                f"{name}.{member}" for member in options[0]["template"]["names"][: options[0]["template"]["min"]]
            )
        else:
            yield name
        if kind == "COMFY_DYNAMICCOMBO_V3":
            (chosen,) = (choice for choice in options[0]["options"] if choice["key"] == given[name])
            yield from (f"{name}.{key}" for key in chosen["inputs"].get("required", ()))


def test_every_workflow_has_its_api_form_and_its_thumbnail():
    assert set(NAMES) == EXPECTED
    assert {path.stem for path in (FOLDER / "api").iterdir()} == EXPECTED
    assert {path.stem for path in FOLDER.glob("*.jpg")} == EXPECTED
    for name in NAMES:
        thumbnail = FOLDER / f"{name}.jpg"
        assert thumbnail.stat().st_size <= LARGEST_THUMBNAIL
        assert min(Image.open(thumbnail).size) >= 400


@pytest.mark.parametrize("name", NAMES)
def test_api_forms_use_nodes_and_inputs_that_exist(name, node_classes):
    graph = read(FOLDER / "api" / f"{name}.json")
    assert any(node["class_type"].startswith("Likeness_") for node in graph.values())
    for node in graph.values():
        schema = node_classes[node["class_type"]]
        allowed = allowed_inputs(schema)
        assert set(node["inputs"]) <= set(allowed), node
        assert set(needed_inputs(schema, node["inputs"])) <= set(node["inputs"]), node
        for key, value in node["inputs"].items():
            if isinstance(value, list):
                source, slot = value
                assert node_classes[graph[source]["class_type"]]["output"][slot] == allowed[key], (node, key)


@pytest.mark.parametrize("name", NAMES)
def test_browser_forms_use_nodes_and_inputs_that_exist(name, node_classes):
    workflow = read(FOLDER / f"{name}.json")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert sum(node["type"] in FRONTEND_ONLY for node in nodes.values()) == 1
    for node in nodes.values():
        if node["type"] in FRONTEND_ONLY:
            continue
        allowed = allowed_inputs(node_classes[node["type"]])
        assert {slot["name"] for slot in node["inputs"]} <= {*allowed, UPLOAD_WIDGET}, node
    links = {link[0] for link in workflow["links"]}
    assert {slot["link"] for node in nodes.values() for slot in node["inputs"]} <= {*links, None}
    for link, source, slot, target, place, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == link
        assert nodes[source]["outputs"][slot]["type"] == nodes[target]["inputs"][place]["type"] == kind


@pytest.mark.parametrize("name", NAMES)
def test_nodes_neither_overlap_nor_leave_their_groups(name):
    title = 30  # pixels of a node's title, above its position
    workflow = read(FOLDER / f"{name}.json")
    boxes = [
        (x, y - title, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in workflow["nodes"])
    ]
    for number, first in enumerate(boxes):
        for second in boxes[number + 1 :]:
            apart = first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
            assert apart, (first, second)
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in workflow["groups"])]
    outside = [
        box
        for box in boxes
        if not any(g[0] <= box[0] and g[1] <= box[1] and box[2] <= g[2] and box[3] <= g[3] for g in groups)
    ]
    assert len(outside) == 1, "only the note stands outside"


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_fixed(name):
    for node in read(FOLDER / f"{name}.json")["nodes"]:
        if node["type"] == "KSampler":
            assert node["widgets_values"][1] == "fixed"


def test_the_template_browser_lists_them_with_their_pictures(comfy_server):
    def fetch(path: str) -> bytes:
        with urllib.request.urlopen(comfy_server.url + path) as answer:
            return answer.read()

    assert set(json.loads(fetch("/workflow_templates"))["ComfyUI-Likeness"]) == EXPECTED
    for name in NAMES:
        address = f"/api/workflow_templates/ComfyUI-Likeness/{name}"
        assert fetch(f"{address}.jpg") == (FOLDER / f"{name}.jpg").read_bytes()
        assert json.loads(fetch(f"{address}.json")) == read(FOLDER / f"{name}.json")
