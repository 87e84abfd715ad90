"""Workflows of older PuLID packs in a real browser: opened, their nodes replaced by a click, and meaning the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

OLD = Path(__file__).with_name("old_workflows")
READY = "() => window.app?.graph && window.app?.extensionManager"
OPEN = "async ([workflow, name]) => { await window.app.loadGraphData(workflow, true, true, name); }"
REPLACED = "() => window.app.graph._nodes.every((node) => !/^(Apply)?Pulid/.test(node.type))"
PROMPT = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"


@pytest.fixture(scope="module")
def tab(browser: Any, comfy_server: Any) -> Any:
    tab = browser.new_page()
    tab.goto(comfy_server.url, wait_until="domcontentloaded")
    tab.wait_for_function(READY)
    yield tab
    tab.close()


@pytest.mark.parametrize("name", ["sdxl-two-people", "flux-fork"])
def test_a_click_replaces_the_nodes_with_their_values(tab: Any, comfyui_path: Path, name: str) -> None:
    """What the browser then sends is what /prompt makes of the same graph, for each node of ours."""
    from likeness.nodes.replacements import OLD_NODES

    workflow = json.loads((OLD / f"{name}.json").read_text("utf-8"))
    tab.evaluate(OPEN, [workflow, name])
    tab.get_by_role("button", name="View details").click()
    tab.get_by_role("button", name="Replace All").click()
    tab.wait_for_function(REPLACED)
    found = json.loads(tab.evaluate(PROMPT))
    becomes = {node.old: node for node in OLD_NODES}
    old = json.loads((OLD / f"{name}.api.json").read_text("utf-8"))
    kinds = {number: becomes.get(node["class_type"]) for number, node in old.items()}
    ours = {number: kind.replaced(old[number]) for number, kind in kinds.items() if kind is not None}
    assert len(ours) >= 4
    for number, node in ours.items():
        assert (found[number]["class_type"], found[number]["inputs"]) == (node["class_type"], node["inputs"])
