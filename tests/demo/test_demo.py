"""`python run.py demo`, as a user starts it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from likeness.demo.__main__ import main
from likeness.demo.photographs import packaged_photographs
from likeness.demo.two_people import HEIGHT, WIDTH, Request, demo_graph
from likeness.faces.pictures import open_picture
from likeness.host.environment import CACHE_VARIABLE, FOLDER_VARIABLE, PYTHON_VARIABLE, ROOT

PATIENCE = 300  # seconds; 25 on a quiet machine


@pytest.fixture
def variables(installed_comfyui: Any, tmp_path: Path) -> dict[str, str]:
    """Environment variables that name the ComfyUI."""
    named = {FOLDER_VARIABLE: str(installed_comfyui.folder), PYTHON_VARIABLE: str(installed_comfyui.python)}
    return {**named, CACHE_VARIABLE: str(tmp_path / "cache")}


def test_the_demo_draws_two_people_and_says_that_its_weights_are_random(installed_comfyui, variables, tmp_path):
    command = [str(installed_comfyui.python), str(ROOT / "run.py"), "demo"]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 0, run.stdout + run.stderr
    folder = tmp_path / "output" / "demo"
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == sorted(path.name for path in folder.iterdir())
    pictures = {path.stem: open_picture(path) for path in folder.iterdir()}
    photos = packaged_photographs()
    assert {name: picture.shape[:2] for name, picture in pictures.items()} == {
        "picture": (HEIGHT, WIDTH),
        "routing-maps": (HEIGHT, WIDTH),
        "faces-1": open_picture(photos[0]).shape[:2],
        "faces-2": open_picture(photos[1]).shape[:2],
    }
    assert pictures["picture"].std((0, 1)).min() > 10
    assert not np.array_equal(pictures["picture"], pictures["routing-maps"])
    said = run.stdout
    assert str(folder) in said
    assert "step 10 of 10" in said
    assert "1 face in 1 picture (bundled detector)" in said
    assert "6 faces in 1 picture (bundled detector)" in said
    assert "TINY RANDOM weights" in said


def test_a_photo_that_is_missing_is_named_before_anything_starts(variables, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "pictures"
    assert (
        main(["--photos", str(tmp_path / "nobody.jpg"), str(packaged_photographs()[0]), "--output", str(output)]) == 1
    )
    captured = capsys.readouterr()
    assert f"the picture {tmp_path / 'nobody.jpg'} could not be read" in captured.err
    assert "Starting" not in captured.out
    assert not output.exists()


def test_without_a_comfyui_it_points_to_the_launcher(monkeypatch, capsys):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    assert main([]) == 1
    assert "python run.py demo" in capsys.readouterr().err


def test_the_options_reach_the_graph(tmp_path):
    plain = demo_graph(Request(tmp_path), ("a.png", "b.jpg"))
    own = demo_graph(Request(tmp_path, (Path("a"), Path("b")), "two people on the moon", 7), ("a.png", "b.jpg"))
    changed = {
        (plain[node_id]["class_type"], key): (value, own[node_id]["inputs"][key])
        for node_id in plain
        for key, value in plain[node_id]["inputs"].items()
        if value != own[node_id]["inputs"][key]
    }
    (first_prompt, prompt) = changed.pop(("CLIPTextEncode", "text"))
    assert "two people" in first_prompt and prompt == "two people on the moon"
    assert changed.pop(("KSampler", "seed"))[1] == 7
    # Of a packaged group one face is chosen by number; of the user's photos the largest.
    assert changed == {
        ("Likeness_PickFaces", "rule"): ("by number", "largest"),
        ("Likeness_PickFaces", "numbers"): ("2", "1"),
    }
    photos = [node["inputs"]["image"] for node in own.values() if node["class_type"] == "LoadImage"]
    assert photos == ["a.png", "b.jpg"]


def test_help_says_what_the_demo_proves(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "TINY RANDOM weights" in capsys.readouterr().out
