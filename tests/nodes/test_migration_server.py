"""Workflows of older PuLID packs on a real server: by /prompt, and opened in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

OLD = Path(__file__).with_name("old_workflows")


def test_an_old_graph_runs_as_ours_without_its_pack(studio):
    """So far that our own loader says which file is missing; with files, test_migration runs it to the end."""
    graph = json.loads((OLD / "sdxl-style.api.json").read_text("utf-8"))
    graph["4"]["inputs"]["ckpt_name"] = studio.models.checkpoint
    graph["12"]["inputs"]["image"] = studio.photos["woman"]
    graph["5"]["inputs"] |= {"width": 64, "height": 64}
    graph["3"]["inputs"] |= {"steps": 1}
    nodes = studio.graph()
    nodes.nodes.update(graph)
    message = studio.failure(nodes)
    missing = ("pulid_sdxl_fp16.safetensors was not found", "EVA02_CLIP_L_336", "glintr100.onnx (pack antelopev2)")
    assert any(fact in message for fact in missing), message


def test_the_browser_is_told_what_becomes_what(studio):
    found = json.loads(studio.fetch("/node_replacements"))
    [flux] = found["ApplyPulidFlux"]
    assert flux["new_node_id"] == "Likeness_PuLIDFromPhoto" and flux["old_widget_ids"] == [
        "weight",
        "start_at",
        "end_at",
    ]
    assert flux["output_mapping"] == [{"new_idx": 0, "old_idx": 0}, {"new_idx": 1, "old_idx": 1}]
    ours = [new[0] for new in found.values() if new[0]["new_node_id"].startswith("Likeness_")]
    assert len(ours) == 9
    assert not any("." in entry["new_id"] for new in ours for entry in new["input_mapping"])  # it leaves these out
