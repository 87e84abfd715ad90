"""Whole graphs on a real server: photos in, pictures of people out."""

from __future__ import annotations

import re

import numpy as np
import pytest


@pytest.fixture(scope="module")
def plain(studio):
    """The picture of the unpatched model."""
    graph = studio.graph()
    picture = studio.picture(graph, None)
    return studio.run(graph, picture).pictures(picture)[0]


def test_six_people_are_found_numbered_and_chosen(studio):
    graph = studio.graph()
    faces = studio.faces(graph, "group")
    chosen = graph.add("Likeness_PickFaces", faces=faces, rule="left to right", count=2)
    results = studio.run(graph, faces[2], chosen[1])
    assert results.text(faces) == "6 faces in 1 picture (bundled detector)"
    assert results.pictures(faces[2])[0].shape == results.own_pictures(faces)[0].shape == (886, 1280, 3)
    assert re.fullmatch(r"2 of 6 faces chosen: number \d, \d", results.text(chosen))
    assert [crop.shape for crop in results.pictures(chosen[1])] == [(224, 224, 3)] * 2


def test_pictures_of_a_batch_without_a_face_are_named(studio):
    graph = studio.graph()
    images = [graph.add("LoadImage", image=studio.photos[name]) for name in ("woman", "wall")]
    batch = graph.add("ImageBatch", image1=images[0], image2=images[1])
    faces = graph.add("Likeness_DetectFaces", image=batch, detector="bundled")
    assert studio.run(graph).text(faces) == "1 face in 2 pictures (bundled detector), none in picture 2"


def test_no_face_is_no_error_for_the_detector(studio):
    graph = studio.graph()
    faces = studio.faces(graph, "wall")
    assert studio.run(graph).text(faces) == "no face in 1 picture (bundled detector)"


def test_one_person_needs_no_router(studio, plain):
    graph = studio.graph()
    adapter = studio.adapter(graph, router="(none)")
    person = studio.identity(graph, adapter, studio.faces(graph), label="Anna")
    picture = studio.picture(graph, studio.apply(graph, adapter, person))
    results = studio.run(graph, picture, person[1])
    assert results.text(person).startswith("Anna from 1 photo")
    assert results.pictures(person[1])[0].shape == (224, 224, 3)
    assert np.abs(results.pictures(picture)[0].astype(int) - plain).mean() > 2


def test_scale_0_hands_the_model_through_unchanged(studio, plain):
    graph = studio.graph()
    adapter = studio.adapter(graph)
    person = studio.identity(graph, adapter, studio.faces(graph))
    picture = studio.picture(graph, studio.apply(graph, adapter, person, id_scale=0.0))
    assert np.array_equal(studio.run(graph, picture).pictures(picture)[0], plain)


@pytest.fixture(scope="module")
def two_people(studio):
    """A graph with two people, one from two photos, in a batch of two pictures, and its outputs."""
    graph = studio.graph()
    adapter = studio.adapter(graph)
    anna = studio.identity(graph, adapter, studio.faces(graph), studio.faces(graph, "mirrored"), label="Anna")
    ben = studio.identity(graph, adapter, studio.faces(graph, "man"))
    applied = studio.apply(graph, adapter, anna, ben)
    picture = studio.picture(graph, applied, batch_size=2)
    return graph, applied, picture


@pytest.mark.parametrize(("view", "num_maps"), [("average", 1), ("per step", 2), ("per layer", 16)])
def test_routing_maps_show_who_is_where(studio, two_people, view, num_maps):
    graph, applied, picture = two_people
    graph = graph.copy()
    maps = graph.add("Likeness_RoutingMaps", routing=applied[1], image=picture, view=view, opacity=1.0)
    results = studio.run(graph, picture)
    drawn = results.own_pictures(maps)
    assert len(drawn) == 2 * num_maps
    assert results.text(maps) == f"{2 * num_maps} maps: 1 Anna, 2 person 2"
    tints = {tuple(colour) for image in drawn for colour in image[:40].reshape(-1, 3)}
    assert tints <= {(230, 159, 0), (86, 180, 233)} and len(tints) >= 1  # the colours of person 1 and 2, and no other


def test_a_second_run_makes_the_same_picture(studio, two_people):
    graph, _, picture = two_people
    first = studio.run(graph, picture).pictures(picture)
    studio.client.free()
    second = studio.run(graph, picture).pictures(picture)
    assert np.array_equal(first, second)


def test_masks_keep_people_to_their_places(studio):
    graph = studio.graph()
    adapter = studio.adapter(graph)
    people = [studio.identity(graph, adapter, studio.faces(graph, name)) for name in ("woman", "man")]
    full = graph.add("SolidMask", value=1.0, width=128, height=128)
    none = graph.add("SolidMask", value=0.0, width=128, height=128)
    half = graph.add("SolidMask", value=1.0, width=64, height=128)
    left = graph.add("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")
    right = graph.add("MaskComposite", destination=full, source=half, x=0, y=0, operation="subtract")
    applied = studio.apply(graph, adapter, *people, masks={1: left, 2: right})
    picture = studio.picture(graph, applied)
    maps = graph.add("Likeness_RoutingMaps", routing=applied[1], image=picture, opacity=1.0)
    drawn = studio.run(graph).own_pictures(maps)[0][:64]
    assert (drawn[:, :64] == (230, 159, 0)).all() and (drawn[:, 64:] == (86, 180, 233)).all()


def test_a_mask_may_be_missing_for_the_first_person(studio):
    graph = studio.graph()
    adapter = studio.adapter(graph)
    people = [studio.identity(graph, adapter, studio.faces(graph, name)) for name in ("woman", "man")]
    none = graph.add("SolidMask", value=0.0, width=128, height=128)
    half = graph.add("SolidMask", value=1.0, width=64, height=128)
    left = graph.add("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")
    applied = studio.apply(graph, adapter, *people, masks={2: left})
    picture = studio.picture(graph, applied)
    maps = graph.add("Likeness_RoutingMaps", routing=applied[1], image=picture, opacity=1.0)
    drawn = studio.run(graph).own_pictures(maps)[0][:64]
    assert (drawn[:, :64] == (86, 180, 233)).all() and (drawn[:, 64:] == (230, 159, 0)).all()


def test_a_face_may_be_given_as_a_box(studio):
    graph = studio.graph()
    image = graph.add("LoadImage", image=studio.photos["woman"])
    box = graph.add("PrimitiveBoundingBox", x=110, y=60, width=100, height=130)
    faces = graph.add("Likeness_FacesFromBoxes", image=image, boxes=box)
    person = studio.identity(graph, studio.adapter(graph), faces)
    results = studio.run(graph, person[1])
    assert results.text(faces) == "1 face in 1 picture (given boxes)"
    assert len(results.pictures(person[1])) == 1


def test_an_image_prompt_changes_the_picture(studio):
    pictures = []
    for scale in (0.0, 1.0):
        graph = studio.graph()
        adapter = studio.adapter(graph, image_prompt=studio.models.image_prompt)
        person = studio.identity(graph, adapter, studio.faces(graph))
        prompt = graph.add("LoadImage", image=studio.photos["group"])
        applied = studio.apply(graph, adapter, person, image_prompt=prompt, image_prompt_scale=scale)
        picture = studio.picture(graph, applied)
        pictures.append(studio.run(graph, picture).pictures(picture)[0].astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() > 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8000, 6000)])
def test_pictures_of_any_size_are_searched(studio, width, height):
    graph = studio.graph()
    image = graph.add("LoadImage", image=studio.photos["woman"])
    scaled = graph.add("ImageScale", image=image, upscale_method="bilinear", width=width, height=height, crop="center")
    faces = graph.add("Likeness_DetectFaces", image=scaled, detector="bundled")
    results = studio.run(graph)
    assert results.text(faces).startswith("no face" if width == 1 else "1 face")
    assert max(results.own_pictures(faces)[0].shape) <= 1536
