"""`python run.py demo`, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from likeness.demo.__main__ import main
from likeness.demo.likeness import ONE, TWO, demo_graph
from likeness.demo.trained import made
from likeness.demo.workflow import nodes_of
from likeness.host.environment import CACHE_VARIABLE, FOLDER_VARIABLE, PYTHON_VARIABLE, ROOT
from likeness.synthetic.captions import VOCABULARY

PATIENCE = 300  # seconds; 40 on a quiet machine
MORE_LIKE = 0.05  # Face Sim over the same pictures without their people; measured 0.14 and 0.21


@pytest.fixture
def variables(installed_comfyui: Any, tmp_path: Path) -> dict[str, str]:
    """Environment variables that name the ComfyUI."""
    named = {FOLDER_VARIABLE: str(installed_comfyui.folder), PYTHON_VARIABLE: str(installed_comfyui.python)}
    return {**named, CACHE_VARIABLE: str(tmp_path / "cache")}


def test_unseen_people_are_drawn_with_their_likeness(installed_comfyui, variables, tmp_path):
    command = [str(installed_comfyui.python), str(ROOT / "run.py"), "demo"]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 0, run.stdout + run.stderr
    folder = tmp_path / "output" / "demo"
    names = sorted(path.name for path in folder.iterdir())
    assert names[:3] == ["person-1.png", "person-2.png", "routing-maps.png"]
    assert [name[:8] for name in names[3:]] == ["sheet-01", "sheet-02", "sheet-03", "sheet-04"]
    said = run.stdout
    assert str(folder) in said and all(name in said for name in names)
    scores = {name.strip(): float(score) for name, score in re.findall(r"^  (\w.*?) +(-?\d\.\d\d)$", said, re.M)}
    assert list(scores) == ["one person", "one person, no identity", "two people", "two people, no identity"]
    for act in ("one person", "two people"):
        assert scores[act] > scores[f"{act}, no identity"] + MORE_LIKE, scores


def test_a_photo_that_is_missing_is_named_before_anything_starts(variables, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "pictures"
    assert main(["--photos", str(tmp_path / "nobody.jpg"), str(tmp_path / "a.jpg"), "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert f"the picture {tmp_path / 'nobody.jpg'} could not be read" in captured.err
    assert "Starting" not in captured.out
    assert not output.exists()


def test_without_a_recogniser_it_says_what_to_install(variables, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "dlib", None)
    assert main(["--output", str(tmp_path / "pictures")]) == 1
    assert "pip install dlib-bin" in capsys.readouterr().err


def test_without_a_comfyui_it_points_to_the_launcher(monkeypatch, capsys):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    assert main([]) == 1
    assert "python run.py demo" in capsys.readouterr().err


def test_act_and_seed_reach_the_graph():
    plain, own = demo_graph(TWO, 1), demo_graph(replace(TWO, prompt="two people on the moon"), 7)
    changed = {
        (plain[node_id]["class_type"], key): (value, own[node_id]["inputs"][key])
        for node_id in plain
        for key, value in plain[node_id]["inputs"].items()
        if value != own[node_id]["inputs"][key]
    }
    assert changed == {
        ("CLIPTextEncode", "text"): (TWO.prompt, "two people on the moon"),
        ("KSampler", "seed"): (1, 7),
    }
    photos = [node["inputs"]["image"] for node in own.values() if node["class_type"] == "LoadImage"]
    assert photos == ["person-1.png", "person-2.png"]
    assert own[nodes_of(own, "EmptyLatentImage")[0]]["inputs"]["width"] == 2 * made()["side"]


def test_the_prompts_are_in_words_that_the_tiny_model_knows():
    for act in (ONE, TWO):
        assert set(re.findall(r"\w+", act.prompt)) <= set(VOCABULARY)


def test_help_says_what_the_demo_proves_and_which_words_there_are(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert "a world of drawn people" in said and "background" in said
