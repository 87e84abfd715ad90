"""The workflows in a real browser: they open whole, mean what their API forms mean, run, and show their results."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from likeness.demo.workflow import COUNTERPARTS, LOADERS, nodes_of, shipped_workflow
from likeness.host.environment import ROOT
from PIL import Image

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
# Nodes that are told the picture's size, and where in their widgets' values it stands.
SIZES = {"EmptyLatentImage": 0, "EmptySD3LatentImage": 0, "ModelSamplingFlux": 2}
READY = "() => window.app?.graph && window.app?.extensionManager"
OPEN = "async ([workflow, name]) => { await window.app.loadGraphData(workflow, true, true, name); }"
STATE = """() => ({
  links: window.app.graph.links.size,
  nodes: window.app.graph._nodes.map((node) => ({
    id: Number(node.id),
    type: node.type,
    known: node.type in window.LiteGraph.registered_node_types,
    red: Boolean(node.has_errors || node.bgcolor === window.LiteGraph.NODE_ERROR_COLOUR),
    broken: (node.inputs ?? []).filter((slot) => slot.link != null && !window.app.graph.links.get(slot.link)).length,
  })),
})"""
PROMPT = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"
LISTEN = """() => {
  window.likenessRun = new Promise((resolve) => {
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted']) {
      window.app.api.addEventListener(name, (event) => resolve([name, event.detail]), { once: true });
    }
  });
}"""
RESULTS = """() => Object.fromEntries(window.app.graph._nodes.map((node) => [node.id, {
  text: node.widgets?.find((widget) => widget.name === 'likeness_text')?.value ?? null,
  images: (node.imgs ?? []).map((image) => [image.naturalWidth, image.naturalHeight]),
}]))"""
LOADED = "(id) => window.app.graph.getNodeById(id).imgs?.[0]?.naturalWidth"
CENTRE = "(id) => { window.app.canvas.centerOnNode(window.app.graph.getNodeById(id)); }"
SET = "async ([name, value]) => { await window.app.ui.settings.setSettingValueAsync(name, value); }"


class Page:
    """A tab with ComfyUI in it, and what went wrong there."""

    def __init__(self, context: Any, url: str) -> None:
        self.tab = context.new_page()
        self.errors: list[str] = []
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", self._listen)
        self.tab.goto(url, wait_until="domcontentloaded")
        self.tab.wait_for_function(READY)

    def open(self, name: str, workflow: dict[str, Any]) -> dict[str, Any]:
        """Open a workflow and return what stands on the canvas."""
        self.tab.evaluate(OPEN, [workflow, name])
        self.tab.wait_for_function(f"() => window.app.graph._nodes.length === {len(workflow['nodes'])}")
        state: dict[str, Any] = self.tab.evaluate(STATE)
        return state

    def show(self, node_id: str | int) -> None:
        """Move a node into sight, wherever the last workflow left the view."""
        self.tab.evaluate(CENTRE, int(node_id))

    def prompt(self) -> dict[str, Any]:
        """What the queue button would send."""
        graph: dict[str, Any] = json.loads(self.tab.evaluate(PROMPT))
        return graph

    def _listen(self, message: Any) -> None:
        place = f"{message.text} {message.location.get('url', '')}"
        # Of the frontend's own errors (missing user.css and the like) we are not the judges. It asks for help in the
        # user's language before it takes the page without one.
        if message.type == "error" and "likeness" in place.lower() and not place.endswith("/en.md"):
            self.errors.append(place)


@pytest.fixture(scope="module")
def page(browser: Any, comfy_server: Any, stage: Any) -> Page:
    stage.client.run(stage.graph("uniportrait-save-identity"))  # its file is what another workflow loads
    return Page(browser, comfy_server.url)


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    return workflow


def meaning(graph: dict[str, Any]) -> dict[str, Any]:
    return {node_id: (node["class_type"], node["inputs"], node["_meta"]["title"]) for node_id, node in graph.items()}


def on_tiny_models(workflow: dict[str, Any], graph: dict[str, Any], stage: Any) -> dict[str, Any]:
    """The browser form with the names, classes and sizes that the API form `graph` has."""
    names = COUNTERPARTS | stage.pictures
    for node in workflow["nodes"]:
        node["type"] = LOADERS.get(node["type"], node["type"])
        values = [names.get(value, value) for value in node.get("widgets_values", [])]
        inputs = graph.get(str(node["id"]), {}).get("inputs", {})
        if node["type"] in SIZES:
            first = SIZES[node["type"]]
            values[first : first + 2] = inputs["width"], inputs["height"]
        if node["type"] == "KSampler":
            values[2] = inputs["steps"]
        node["widgets_values"] = values
    return workflow


def test_there_are_workflows():
    assert len(NAMES) == 20


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_and_means_its_api_form(name, page, stage):
    workflow = read(name)
    state = page.open(name, workflow)
    assert state["links"] == len(workflow["links"])
    assert {node["id"]: node["type"] for node in state["nodes"]} == {n["id"]: n["type"] for n in workflow["nodes"]}
    assert [node for node in state["nodes"] if not node["known"] or node["broken"]] == []
    assert page.tab.get_by_role("dialog").filter(visible=True).count() == 0
    assert meaning(page.prompt()) == meaning(shipped_workflow(name))
    state = page.open(name, on_tiny_models(workflow, stage.graph(name), stage))
    assert [node for node in state["nodes"] if node["red"]] == []  # published files that are not there are red, rightly
    assert page.errors == []


def test_the_queue_button_draws_and_the_nodes_tell(page, stage):
    name = "uniportrait-two-people"
    graph = stage.graph(name)
    expected = stage.draw(graph)
    page.open(name, on_tiny_models(read(name), graph, stage))
    sent = page.prompt()
    assert {key: node["inputs"] for key, node in sent.items()} == {key: node["inputs"] for key, node in graph.items()}
    page.tab.evaluate(LISTEN)
    page.tab.get_by_test_id("queue-button").first.click()
    event, detail = page.tab.evaluate("() => window.likenessRun")
    assert event == "execution_success", detail
    (saved,), (maps,) = nodes_of(graph, "SaveImage"), nodes_of(graph, "Likeness_RoutingMaps")
    for node_id in (saved, maps):  # pictures arrive after the event, and only for a node in sight
        page.show(node_id)
        page.tab.wait_for_function(LOADED, arg=int(node_id))
    results = page.tab.evaluate(RESULTS)

    (image,) = page.tab.evaluate("(id) => window.app.nodeOutputs[id].images", saved)
    picture = np.asarray(Image.open(io.BytesIO(stage.client.view(image))).convert("RGB"), np.float32)
    assert np.array_equal(picture, expected)
    assert results[saved]["images"] == [[picture.shape[1], picture.shape[0]]]

    texts = [results[node_id]["text"] for node_id in nodes_of(graph, "Likeness_DetectFaces")]
    assert texts[0].startswith("1 face in 1 picture") and texts[1].startswith("3 faces in 1 picture")
    assert "person 1" in results[maps]["text"] and "person 2" in results[maps]["text"]
    assert results[maps]["images"] == [[picture.shape[1], picture.shape[0]]]
    assert page.prompt() == sent, "what a node tells is no part of the graph"
    assert page.errors == []


def test_the_help_of_a_node_opens(page):
    page.open("uniportrait-two-people", read("uniportrait-two-people"))
    node = next(node for node in read("uniportrait-two-people")["nodes"] if node["type"] == "Likeness_DetectFaces")
    page.show(node["id"])
    page.tab.evaluate("(id) => window.app.canvas.selectNode(window.app.graph.getNodeById(id))", node["id"])
    page.tab.get_by_test_id("info-button").first.click()
    written = (ROOT / "web" / "docs" / "Likeness_DetectFaces.md").read_text("utf-8")
    sentence = next(line for line in written.splitlines() if line and line[0].isalpha())
    page.tab.get_by_text(sentence[:40]).first.wait_for()
    assert page.errors == []


def test_the_new_node_rendering_shows_a_workflow(browser, comfy_server, page):
    setting = "Comfy.VueNodes.Enabled"
    page.tab.evaluate(SET, [setting, True])
    try:
        new = Page(browser, comfy_server.url)
        workflow = read("uniportrait-two-people")
        new.open("uniportrait-two-people", workflow)
        new.tab.wait_for_function(
            f"() => document.querySelectorAll('[data-node-id]').length >= {len(workflow['nodes'])}"
        )
        assert meaning(new.prompt()) == meaning(shipped_workflow("uniportrait-two-people"))
        assert new.errors == []
    finally:
        page.tab.evaluate(SET, [setting, False])
