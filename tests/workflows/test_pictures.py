"""What the workflows draw, through the API of a real server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from likeness.demo.workflow import applying, nodes_of, switched_off, without_people
from likeness.host.client import RunInterrupted
from likeness.host.environment import ROOT
from likeness.host.progress import Progress
from likeness.host.server import ComfyServer

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
SAVING = "uniportrait-save-identity"
DRAWING = [name for name in NAMES if name != SAVING]
MASKED = [
    "uniportrait-people-with-masks",
    "pulid-sdxl-two-people-with-masks",
    "pulid-flux-people-with-masks",
    "uniid-two-people-with-masks",
]
PEOPLE = {"uniportrait-two-people": 2, "uniportrait-three-people": 3} | dict.fromkeys(MASKED, 2)
BASES = ["uniportrait-single-face", "pulid-sdxl-lightning", "pulid-flux-photo", "uniid-photo"]  # each system and base
LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage")
VISIBLE = 1.0  # grey levels, mean over the picture: far above rounding, far below any change of an input


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


@pytest.fixture(scope="module")
def saved(stage: Any, comfy_server: Any) -> Any:
    """The saving workflow's history entry; its file is there."""
    entry = stage.client.run(stage.graph(SAVING))
    assert (comfy_server.folder / "output" / "identities" / "person-1.safetensors").is_file()
    return entry


@pytest.fixture(scope="module")
def single(stage: Any) -> np.ndarray:
    return stage.draw(stage.graph("uniportrait-single-face"))


def test_there_are_workflows():
    assert len(DRAWING) == 19 and {*PEOPLE, *BASES} <= set(DRAWING)


@pytest.mark.parametrize("name", DRAWING)
def test_a_workflow_draws_a_picture_that_depends_on_its_people(name, stage, saved):
    graph = stage.graph(name)
    picture = stage.draw(graph)
    (size,) = (node["inputs"] for node in graph.values() if node["class_type"] in LATENTS)
    assert picture.shape == (size["height"], size["width"], 3)
    assert picture.std((0, 1)).mean() > 10  # a flat picture has 0
    plain = without_people(graph)
    assert difference(picture, stage.draw(plain)) > VISIBLE
    stranger = stage.pictures["stranger.jpg"]
    for which in range(len(nodes_of(graph, "LoadImage"))):
        changed = stage.change(graph, "LoadImage", which, image=stranger)
        assert difference(picture, stage.draw(changed)) > 0.1, f"photo {which + 1} has no effect"


@pytest.mark.parametrize("name", DRAWING)
def test_with_the_people_switched_off_it_is_the_plain_graph(name, stage, saved):
    graph = stage.graph(name)
    assert np.array_equal(stage.draw(switched_off(graph)), stage.draw(without_people(graph)))


@pytest.mark.parametrize("name", PEOPLE)
def test_routing_maps_come_with_the_people(name, stage):
    graph = stage.graph(name)
    entry = stage.client.run(graph)
    (node_id,) = nodes_of(graph, "Likeness_RoutingMaps")
    (text,) = entry["outputs"][node_id]["text"]
    assert all(f"person {number}" in text for number in range(1, PEOPLE[name] + 1))
    assert len(entry["outputs"][node_id]["images"]) == 1


@pytest.mark.parametrize("name", MASKED)
def test_masks_decide_who_goes_where(name, stage):
    graph = stage.graph(name)
    (applied,) = applying(graph)
    kind, inputs = graph[applied]["class_type"], graph[applied]["inputs"]
    picture = stage.draw(graph)
    people = {
        "identities.identity_1": inputs["identities.identity_2"],
        "identities.identity_2": inputs["identities.identity_1"],
    }
    places = {"masks.mask_1": inputs["masks.mask_2"], "masks.mask_2": inputs["masks.mask_1"]}
    for exchanged in (people, places):
        other = stage.change(graph, kind, **exchanged)
        assert difference(stage.draw(other), picture) > VISIBLE
    both = stage.change(graph, kind, **people, **places)
    assert difference(stage.draw(both), picture) < 0.05  # sums in another order


@pytest.mark.parametrize("name", BASES)
def test_identity_leaves_no_trace_in_the_plain_model(name, stage):
    graph = stage.graph(name)
    plain = without_people(graph)
    first, picture = stage.draw(plain), stage.draw(graph)
    assert np.array_equal(stage.draw(plain), first)
    assert np.array_equal(stage.draw(graph), picture)


@pytest.mark.parametrize("name", BASES)
def test_each_picture_of_a_batch_shows_the_person(name, stage):
    graph = stage.graph(name)
    (latent,) = (node["class_type"] for node in graph.values() if node["class_type"] in LATENTS)
    batch = stage.change(graph, latent, batch_size=2)
    first, second = stage.draw_batch(batch)
    assert difference(first, stage.draw(graph)) < 0.05  # sums in another order
    plain = stage.draw_batch(without_people(batch))
    assert all(difference(*pair) > VISIBLE for pair in ((first, second), (first, plain[0]), (second, plain[1])))


def test_an_interrupted_run_leaves_no_trace(stage, single):
    graph = stage.graph("uniportrait-single-face")
    plain = without_people(graph)
    first = stage.draw(plain)
    (sampler,) = nodes_of(graph, "KSampler")

    def interrupt(progress: Progress) -> None:
        if progress.node_id == sampler and progress.value >= 2:
            stage.client.interrupt()

    with pytest.raises(RunInterrupted):
        stage.draw(stage.change(graph, "KSampler", steps=500), on_progress=interrupt)
    assert np.array_equal(stage.draw(graph), single)
    with pytest.raises(RunInterrupted):
        stage.draw(stage.change(graph, "KSampler", steps=500), on_progress=interrupt)
    assert np.array_equal(stage.draw(plain), first)


def test_ten_other_weights_and_back_give_the_first_picture(stage, single):
    graph = stage.graph("uniportrait-single-face")
    seen = [single]
    for number in range(10):
        weights = {"id_scale": 0.1 + 0.1 * number, "lora_scale": 1.4 - 0.1 * number}
        picture = stage.draw(stage.change(graph, "Likeness_ApplyUniPortrait", **weights))
        assert all(difference(picture, other) > 0.01 for other in seen)
        seen.append(picture)
    assert np.array_equal(stage.draw(graph), single)


def test_a_saved_identity_draws_what_its_photo_draws(stage, saved, single):
    assert np.array_equal(stage.draw(stage.graph("uniportrait-load-identity")), single)


def test_the_saving_workflow_says_where_the_file_went(stage, saved):
    (node_id,) = nodes_of(stage.graph(SAVING), "Likeness_SaveIdentity")
    assert "identities" in json.dumps(saved["outputs"][node_id]["text"])


@pytest.mark.parametrize(
    "flags", [("--disable-smart-memory", "--cache-none"), ("--lowvram",), ("--novram",)], ids=lambda flags: flags[0][2:]
)
def test_memory_modes_draw_the_same_picture(flags, stage, make_stage, installed_comfyui, tmp_path):
    (device,) = stage.client.system_stats()["devices"][:1]
    if "vram" in flags[0] and device["type"] == "cpu":
        pytest.skip(f"{flags[0]} excludes --cpu, and this machine has no accelerator")
    packs = [ROOT / "demo" / "models_pack"]
    names = ["uniportrait-two-people", *BASES[1:]]  # two people, for the router
    pictures = {name: stage.draw(stage.graph(name)) for name in names}
    with ComfyServer(installed_comfyui, tmp_path, packs, flags, threads=1) as server:
        other = make_stage(server)
        for name, picture in pictures.items():
            plain = without_people(other.graph(name))
            first = other.draw(plain)
            # On an accelerator text encoders may run elsewhere in these modes, and round otherwise.
            bound = 0.0 if device["type"] == "cpu" else 1.0
            assert difference(other.draw(other.graph(name)), picture) <= bound, name
            assert np.array_equal(other.draw(plain), first), name
