"""Identities on a real server: encoding, mixing, saving and loading them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

OTHER = "other-"


@pytest.fixture(scope="module")
def saved(studio):
    """Tensors of identities of the same photos in another order, as a batch, and of two people and their mixes."""
    graph = studio.graph()
    adapter = studio.adapter(graph)
    anna, mirrored, ben = (studio.faces(graph, name) for name in ("woman", "mirrored", "man"))
    images = [graph.add("LoadImage", image=studio.photos[name]) for name in ("woman", "mirrored")]
    batch = graph.add("ImageBatch", image1=images[0], image2=images[1])
    both = graph.add("Likeness_DetectFaces", image=batch, detector="bundled")
    people = {
        "anna": studio.identity(graph, adapter, anna, label="Anna"),
        "ben": studio.identity(graph, adapter, ben),
        "in order": studio.identity(graph, adapter, anna, mirrored),
        "reversed": studio.identity(graph, adapter, mirrored, anna),
        "as a batch": studio.identity(graph, adapter, both),
    }
    links = {"identities.identity_1": people["anna"], "identities.identity_2": people["ben"]}
    for name, weights in (("equal", ""), ("two to one", "2, 1"), ("first only", "1, 0")):
        people[name] = graph.add("Likeness_MixIdentities", links, weights=weights)
    for name, person in people.items():
        graph.add("Likeness_SaveIdentity", identity=person, filename=name)
    studio.run(graph)
    return {name: studio.saved(name) for name in people}


def test_the_order_of_references_does_not_matter(saved):
    torch.testing.assert_close(saved["in order"], saved["reversed"], rtol=1e-4, atol=1e-4)
    assert (saved["in order"]["identity.cond"] - saved["anna"]["identity.cond"]).abs().max() > 1e-2


def test_a_batch_of_pictures_is_as_good_as_several_inputs(saved):
    torch.testing.assert_close(saved["as a batch"], saved["in order"], rtol=1e-4, atol=1e-4)


def test_mixing_goes_by_the_ratio_of_the_weights(saved):
    anna, ben = saved["anna"]["identity.cond"], saved["ben"]["identity.cond"]
    assert (anna - ben).abs().max() > 1e-2
    torch.testing.assert_close(saved["equal"]["identity.cond"], (anna + ben) / 2)
    torch.testing.assert_close(saved["two to one"]["identity.cond"], (2 * anna + ben) / 3)
    torch.testing.assert_close(saved["first only"]["identity.cond"], anna, rtol=0, atol=0)
    for mixed in ("equal", "two to one", "first only"):
        torch.testing.assert_close(saved[mixed]["identity.uncond"], saved["anna"]["identity.uncond"], rtol=0, atol=0)


def test_a_saved_person_gives_the_same_picture_bit_for_bit(studio, saved):
    pictures = []
    for source in ("photo", "file"):
        graph = studio.graph()
        # A loaded person needs neither CLIP vision nor the backbone.
        adapter = studio.adapter(graph, **({} if source == "photo" else {"clip_vision": None, "backbone": "none.bin"}))
        if source == "photo":
            person = studio.identity(graph, adapter, studio.faces(graph), label="Anna")
        else:
            person = graph.add("Likeness_LoadIdentity", file="anna.safetensors")
        picture = studio.picture(graph, studio.apply(graph, adapter, person))
        results = studio.run(graph, picture)
        pictures.append(results.pictures(picture)[0])
    assert results.text(person) == "Anna (uniportrait)"
    assert np.array_equal(*pictures)


def test_saving_twice_numbers_the_file_and_the_list_shows_it(studio, saved):
    graph = studio.graph()
    person = graph.add("Likeness_LoadIdentity", file="anna.safetensors")
    named = graph.add("Likeness_SaveIdentity", identity=person, filename="an/na: of?")
    again = graph.add("Likeness_SaveIdentity", identity=person, filename="anna")
    over = graph.add("Likeness_SaveIdentity", identity=person, filename="ben", overwrite=True)
    results = studio.run(graph)
    folder = studio.server.folder / "output" / "identities"
    assert results.text(again) == f"Saved {folder / 'anna_2.safetensors'}"
    assert results.text(named) == f"Saved {folder / 'an_na_ of_.safetensors'}"
    assert results.text(over) == f"Saved {folder / 'ben.safetensors'}"
    assert torch.equal(studio.saved("ben")["identity.cond"], studio.saved("anna")["identity.cond"])
    schema = studio.client.object_info("Likeness_LoadIdentity")["Likeness_LoadIdentity"]
    offered = schema["input"]["required"]["file"]
    assert {"anna.safetensors", "anna_2.safetensors"} <= set(offered[1]["options"])


def test_a_replaced_adapter_file_is_loaded_again(studio, saved):
    swapped = studio.models.paths[studio.models.faceid].with_name("swapped-faceid.bin")
    shutil.copy(studio.models.paths[studio.models.faceid], swapped)
    graph = studio.graph()
    person = graph.add("Likeness_LoadIdentity", file="anna.safetensors")
    adapter = studio.adapter(graph, clip_vision=None, faceid=swapped.name)
    picture = studio.picture(graph, studio.apply(graph, adapter, person))
    studio.run(graph, picture)
    shutil.copy(swapped.with_name(OTHER + studio.models.faceid), swapped)
    assert "was made by another UniPortrait file" in studio.failure(graph, picture)


def test_different_structure_scales_are_noticed_when_mixing(studio):
    graph = studio.graph()
    adapter, faces = studio.adapter(graph), studio.faces(graph)
    people = [studio.identity(graph, adapter, faces, structure_scale=scale) for scale in (0.1, 0.3)]
    links = {f"identities.identity_{number}": person for number, person in enumerate(people, 1)}
    mixed = graph.add("Likeness_MixIdentities", links, label="half and half")
    graph.add("Likeness_SaveIdentity", identity=mixed, filename="")
    text = studio.run(graph).text(mixed)
    assert text.startswith("50% person 1, 50% person 2\nWarning: ") and "different structure scales" in text
    assert (studio.server.folder / "output" / "identities" / "half and half.safetensors").is_file()
