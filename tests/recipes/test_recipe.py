"""A whole recipe in miniature: from nothing to a table and to weights that the demo fills up."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from likeness.adapters.uniportrait import load_uniportrait
from likeness.demo import trained
from likeness.demo.tiny_layouts import taesd_shapes, text_shapes, under, unet_shapes
from likeness.demo.tiny_sizes import TinySizes
from likeness.recipes import true_routing
from likeness.recipes.adapters import ABLATIONS, DETAILS, UNIPORTRAIT, run_of, steps_done, train_variant
from likeness.recipes.export import export
from likeness.recipes.recipe import CPU, Training
from likeness.recipes.steps import Workshop
from likeness.recipes.table import ROWS, Studio, make_table
from likeness.recipes.unpack import unpack
from likeness.synthetic import test_people as unseen_people

MINIATURE = dataclasses.replace(
    CPU,
    name="miniature",
    base_single=8,
    base_pairs=4,
    encoder_people=4,
    encoder_photos=2,
    adapter_single=4,
    adapter_pairs=4,
    vae=Training(2, 2, 1e-3),
    encoders=Training(2, 4, 1e-3),
    base=Training(2, 2, 1e-3),
    stage1=Training(2, 2, 1e-3),
    stage1_details=Training(2, 2, 1e-3),
    stage2=Training(2, 2, 1e-3),
    centre_people=8,
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    made = Workshop(MINIATURE, tmp_path_factory.mktemp("recipe"), torch.device("cpu"), lambda line: None, TinySizes())
    for step in ("pictures", "vae", "base", "encoders", "sets"):
        getattr(made, f"make_{step}")()
    for variant in UNIPORTRAIT:
        train_variant(made, variant)
    return made


def test_stage_one_goes_on_with_the_details(workshop):
    (stage_one, *_) = UNIPORTRAIT
    assert steps_done(workshop, stage_one) == 4
    settings = yaml.safe_load((run_of(workshop, stage_one) / "config.yaml").read_text("utf-8"))
    assert settings["model"]["loss"]["min_snr_gamma"] == DETAILS.min_snr
    assert settings["model"]["dropping"]["other_photo"] == DETAILS.other_photo


def test_the_weights_are_complete_files(workshop, tmp_path):
    export(workshop, tmp_path, workshop.folder / "no results")
    sizes = TinySizes()
    expected = under("model.diffusion_model.", unet_shapes(sizes))
    expected |= under("first_stage_model.", taesd_shapes(sizes))
    expected |= under("cond_stage_model.transformer.", text_shapes(sizes))
    checkpoint = trained.checkpoint(sizes, tmp_path)
    assert {key: tuple(tensor.shape) for key, tensor in checkpoint.items()} == expected
    adapter = load_uniportrait(tmp_path / "faceid.safetensors", tmp_path / "router.safetensors")
    assert adapter.routers is not None
    assert trained.made(tmp_path) == {"recipe": "miniature", "side": 64, "rows": {}}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20e6


def test_a_recipe_starts_from_its_own_weights(workshop, tmp_path):
    """What is unpacked is packed again to the same bytes, and carries the ablations."""
    export(workshop, tmp_path / "first", workshop.folder / "no results")
    again = dataclasses.replace(workshop, folder=tmp_path / "again")
    again.folder.mkdir()
    unpack(again, tmp_path / "first")
    export(again, tmp_path / "second", workshop.folder / "no results")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert [name for name in first if first[name] != second.get(name)] == []
    shutil.copytree(workshop.folder / "sets", again.folder / "sets")
    for variant in ABLATIONS[1:]:
        train_variant(again, variant)
        assert steps_done(again, variant) == 2


def test_the_table_is_written(workshop, tmp_path):
    rows = [row for row in ROWS if row.title in ("base model, no identity", "UniPortrait, two people")]
    results = make_table(Studio(workshop, 2), rows, tmp_path)
    assert list(results.rows) == [row.title for row in rows]
    written = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert written["rows"]["base model, no identity"]["scores"]["attributes"]["n"] == 8
    assert (tmp_path / "results.md").exists()
    assert list(tmp_path.glob("sheet-*.png"))


def test_the_router_is_asked_about_true_pictures(workshop):
    (two,) = (row for row in ROWS if row.title == "UniPortrait, two people")
    found = true_routing.true_routing(Studio(workshop, 3), two)
    assert list(found) == list(true_routing.TIMESTEPS)
    assert all(0 <= estimate.mean <= 1 and (estimate.n, estimate.clusters) == (3, 3) for estimate in found.values())


def test_true_pictures_know_who_is_where(workshop):
    (picture,) = true_routing._pictures(workshop, unseen_people(2))[:1]
    height, width = picture.pixels.shape[:2]
    right = np.zeros((height, width), np.int64)
    right[:, width // 2 :] = 1  # people stand from left to right
    assert true_routing._score(picture, [right, right]) == 1
    assert true_routing._score(picture, [right, 1 - right]) == 0.5
    assert true_routing._score(picture, [right, right[:1, :1]]) == 1  # a place that is mostly not face does not count
