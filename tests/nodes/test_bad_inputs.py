"""Every wrong input has its own message, on a real server."""

from __future__ import annotations

import io
import re
import shutil

import pytest
import torch

OTHER = "other-"


class Surprise:
    """What a hostile pickle holds: a call."""

    def __reduce__(self):
        return print, ("run while loading",)


def person_of(studio, graph, photo="woman", **inputs):
    adapter = studio.adapter(graph)
    return adapter, studio.identity(graph, adapter, studio.faces(graph, photo), **inputs)


def test_no_face(studio):
    graph = studio.graph()
    _, person = person_of(studio, graph, "wall")
    message = studio.failure(graph, person[1])
    assert message.startswith("Encode Identity: no face in picture 1.") and "skip picture" in message


def test_no_face_left_after_skipping(studio):
    graph = studio.graph()
    _, person = person_of(studio, graph, "wall", no_face="skip picture")
    assert "nothing is left after skipping" in studio.failure(graph, person[1])


def test_skipping_uses_the_other_pictures_and_says_so(studio):
    graph = studio.graph()
    faces = [studio.faces(graph, name) for name in ("wall", "woman")]
    person = studio.identity(graph, studio.adapter(graph), *faces, no_face="skip picture")
    text = studio.run(graph, person[1]).text(person)
    assert text.startswith("One person from 1 photo\n") and "picture 1 shows no face and was skipped" in text


def test_fewer_faces_than_asked_for(studio):
    graph = studio.graph()
    chosen = graph.add("Likeness_PickFaces", faces=studio.faces(graph), count=3)
    assert "asked for 3 faces, found 1" in studio.failure(graph, chosen[1])


def test_a_number_that_no_face_has(studio):
    graph = studio.graph()
    chosen = graph.add("Likeness_PickFaces", faces=studio.faces(graph), rule="by number", numbers="4")
    assert "asked for face 4" in studio.failure(graph, chosen[1])


def test_several_faces_in_a_reference_are_noticed(studio):
    graph = studio.graph()
    _, person = person_of(studio, graph, "group")
    text = studio.run(graph, person[1]).text(person)
    assert "Warning: picture 1 shows 6 faces; used number 1, the largest" in text
    assert "Encode Identity: picture 1 shows 6 faces; used number 1, the largest" in studio.server.log_tail(400)


def test_references_of_two_people_are_noticed(studio):
    graph = studio.graph()
    people = [studio.faces(graph, name) for name in ("drawn", "other drawn")]  # whom the tiny backbone knows
    person = studio.identity(graph, studio.adapter(graph), *people)
    text = studio.run(graph, person[1]).text(person)
    assert re.search(r"picture 1 and picture 2 look like different people \(similarity -?0.\d\d; below 0.2\)", text)


def test_a_small_face_is_noticed(studio):
    graph = studio.graph()
    image = graph.add("LoadImage", image=studio.photos["woman"])
    small = graph.add("ImageScale", image=image, upscale_method="area", width=160, height=128, crop="disabled")
    faces = graph.add("Likeness_DetectFaces", image=small, detector="bundled")
    person = studio.identity(graph, studio.adapter(graph), faces)
    text = studio.run(graph, person[1]).text(person)
    assert "pixels large; below 112 the likeness suffers" in text


def test_no_identity(studio):
    from likeness.host.client import GraphRejected

    graph = studio.graph()
    picture = studio.picture(graph, studio.apply(graph, studio.adapter(graph)))
    with pytest.raises(GraphRejected, match="identity_1"):
        studio.run(graph, picture)


def test_an_identity_of_another_adapter(studio):
    graph = studio.graph()
    _, person = person_of(studio, graph, label="Anna")
    other = studio.adapter(graph, clip_vision=None, faceid=OTHER + studio.models.faceid, router="(none)")
    message = studio.failure(graph, studio.picture(graph, studio.apply(graph, other, person)))
    assert "identity 1 (Anna) was made by another UniPortrait file" in message


def test_two_people_without_a_router(studio):
    graph = studio.graph()
    adapter = studio.adapter(graph, router="(none)")
    person = studio.identity(graph, adapter, studio.faces(graph))
    message = studio.failure(graph, studio.picture(graph, studio.apply(graph, adapter, person, person)))
    assert "2 identities need the router file (uniportrait-router_sd15.bin)" in message


def test_an_adapter_without_clip_vision_cannot_see_photos(studio):
    graph = studio.graph()
    person = studio.identity(graph, studio.adapter(graph, clip_vision=None), studio.faces(graph))
    message = studio.failure(graph, person[1])
    assert "without CLIP vision" in message and "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors" in message


def test_an_image_prompt_without_its_file(studio):
    graph = studio.graph()
    adapter, person = person_of(studio, graph)
    image = graph.add("LoadImage", image=studio.photos["group"])
    applied = studio.apply(graph, adapter, person, image_prompt=image)
    assert "choose the image-prompt file (ip-adapter_sd15)" in studio.failure(graph, studio.picture(graph, applied))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({1: (0.0, 128, 128)}, "mask of identity 1 is empty"),
        ({1: (0.0, 64, 64)}, "Load Image gives an empty 64x64 mask"),
        ({1: (1.0, 512, 128)}, "masks are 512x128 pixels, but the picture being made is 128x128"),
        ({1: (1.0, 128, 128), 2: (1.0, 64, 64)}, "masks have different sizes"),
        ({3: (1.0, 128, 128)}, "mask_3 is connected, but identity_3 is not"),
    ],
)
def test_masks_that_cannot_work(studio, masks, message):
    graph = studio.graph()
    adapter, person = person_of(studio, graph)
    made = {
        number: graph.add("SolidMask", value=value, width=width, height=height)
        for number, (value, width, height) in masks.items()
    }
    assert message in studio.failure(
        graph, studio.picture(graph, studio.apply(graph, adapter, person, person, masks=made))
    )


@pytest.mark.parametrize(
    ("slot", "kind", "message"),
    [
        ("faceid", "router", "is a UniPortrait router file, put it in router; the faceid slot needs"),
        ("router", "faceid", "is a UniPortrait faceid file, put it in faceid; the router slot needs"),
        ("faceid", "backbone", "is a CurricularFace IR backbone"),
        ("backbone", "faceid", "is a UniPortrait faceid file, put it in faceid; the backbone slot needs"),
        ("image_prompt", "router", "is a UniPortrait router file, put it in router; the image_prompt slot needs"),
    ],
)
def test_files_in_each_others_slots(studio, slot, kind, message):
    graph = studio.graph()
    adapter = studio.adapter(graph, **{slot: getattr(studio.models, kind)})
    person = studio.identity(graph, adapter, studio.faces(graph))
    assert message in studio.failure(graph, person[1])


def test_a_clip_vision_model_of_another_size(studio):
    graph = studio.graph()
    adapter = studio.adapter(graph, clip_vision=OTHER + studio.models.clip_vision)
    person = studio.identity(graph, adapter, studio.faces(graph))
    message = studio.failure(graph, person[1])
    assert "this CLIP_VISION gives 96-wide features" in message and "ViT-H/14" in message


def hostile() -> bytes:
    content = io.BytesIO()
    torch.save({"faceid_proj": Surprise()}, content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "damaged"),
        (lambda whole: b"", "damaged"),
        (lambda whole: hostile(), "contains code beside its tensors"),
    ],
    ids=["truncated", "empty", "hostile"],
)
def test_files_that_are_no_models(studio, content, message):
    good = studio.models.paths[studio.models.faceid]
    bad = good.with_name("bad-faceid.bin")
    bad.write_bytes(content(good.read_bytes()))
    graph = studio.graph()
    person = graph.add("Likeness_LoadIdentity", file="missing.safetensors")
    adapter = studio.adapter(graph, clip_vision=None, faceid=bad.name)
    found = studio.failure(graph, studio.picture(graph, studio.apply(graph, adapter, person)))
    assert message in found and bad.name in found
    assert "run while loading" not in studio.server.log_tail(400)
    bad.unlink()


@pytest.mark.parametrize(
    ("slot", "facts"),
    [
        (
            "faceid",
            ("uniportrait-faceid_sd15.bin", "224 MB", "Apache-2.0", "Junjie96/UniPortrait", "models/uniportrait"),
        ),
        ("router", ("uniportrait-router_sd15.bin", "226 MB")),
        ("backbone", ("glint360k_curricular_face_r101_backbone.bin", "261 MB")),
        ("image_prompt", ("ip-adapter_sd15", "h94/IP-Adapter")),
    ],
)
def test_files_that_are_missing(studio, slot, facts):
    graph = studio.graph()
    adapter = studio.adapter(graph, **{slot: "gone.bin"})
    person = studio.identity(graph, adapter, studio.faces(graph))
    message = studio.failure(graph, person[1])
    assert message.startswith("Load UniPortrait: gone.bin was not found in ")
    for fact in (*facts, str(studio.server.folder / "models" / "uniportrait")):
        assert fact in message


def test_an_identity_file_that_is_missing(studio):
    graph = studio.graph()
    person = graph.add("Likeness_LoadIdentity", file="nobody.safetensors")
    graph.add("Likeness_SaveIdentity", identity=person, filename="x")
    assert "Load Identity: nobody.safetensors is not there" in studio.failure(graph)


def test_an_identity_file_that_is_something_else(studio):
    folder = studio.server.folder / "models" / "likeness" / "identities"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(studio.models.paths[studio.models.router_safetensors], folder / "no-person.safetensors")
    graph = studio.graph()
    person = graph.add("Likeness_LoadIdentity", file="no-person.safetensors")
    graph.add("Likeness_SaveIdentity", identity=person, filename="x")
    assert "no-person.safetensors is a UniPortrait router file" in studio.failure(graph)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("1, 2, 3", "3 weights (1, 2, 3) for 2 identities"),
        ("one, 2", "'one' in the weights 'one, 2' is no number"),
        ("1, nan", "'nan' in the weights '1, nan' is no number"),
        ("1,", "'' in the weights '1,' is no number"),
        ("1, -1", "sum to 0"),
    ],
)
def test_weights_that_do_not_work(studio, weights, message):
    graph = studio.graph()
    _, person = person_of(studio, graph)
    links = {"identities.identity_1": person, "identities.identity_2": person}
    mixed = graph.add("Likeness_MixIdentities", links, weights=weights)
    graph.add("Likeness_SaveIdentity", identity=mixed, filename="x")
    assert message in studio.failure(graph)


def test_routing_maps_of_one_person(studio):
    graph = studio.graph()
    adapter, person = person_of(studio, graph)
    applied = studio.apply(graph, adapter, person)
    graph.add("Likeness_RoutingMaps", routing=applied[1], image=studio.picture(graph, applied))
    assert "Routing Maps: only one identity is applied" in studio.failure(graph)


def test_routing_maps_without_a_sampler(studio):
    graph = studio.graph()
    adapter, person = person_of(studio, graph)
    applied = studio.apply(graph, adapter, person, person)
    image = graph.add("LoadImage", image=studio.photos["woman"])
    graph.add("Likeness_RoutingMaps", routing=applied[1], image=image)
    assert "Routing Maps: nothing was recorded" in studio.failure(graph)


def test_a_box_outside_the_picture(studio):
    graph = studio.graph()
    image = graph.add("LoadImage", image=studio.photos["woman"])
    box = graph.add("PrimitiveBoundingBox", x=900, y=900, width=10, height=10)
    graph.add("Likeness_FacesFromBoxes", image=image, boxes=box)
    assert "lies outside the picture" in studio.failure(graph)
