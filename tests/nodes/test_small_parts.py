"""Names of files, weights of a mix, references of a person."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _comfyui(comfyui_path):
    """The nodes need ComfyUI to be importable."""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Anna", "Anna"),
        ("  Anna.safetensors ", "Anna"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\people\\Anna", "C__people_Anna"),
        ("Zoë 東京", "Zoë 東京"),
        ("con", "_con"),
        ("nul.txt", "_nul.txt"),
        ("tab\tand\nline", "tab_and_line"),
        ("...", ""),
        ("", ""),
        ("?*", ""),
        ("a" * 300, "a" * 100),
    ],
)
def test_file_names_fit_every_system(text, name):
    from likeness.nodes.identity_files import clean_name

    assert clean_name(text) == name


def test_saving_never_takes_a_name_that_loading_finds_elsewhere(node_classes):
    import folder_paths
    from likeness.nodes.identity_files import path_to_save
    from likeness.nodes.model_folders import saved_identities_folder

    elsewhere, own = (folder_paths.get_folder_paths("likeness_identities")[index] for index in (0, 1))
    assert own == str(saved_identities_folder()) != elsewhere
    taken = saved_identities_folder().parents[1] / "models" / "likeness" / "identities" / "anna.safetensors"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"anna")
    try:
        assert path_to_save("anna", overwrite=False) == saved_identities_folder() / "anna_2.safetensors"
        assert path_to_save("ben", overwrite=False) == saved_identities_folder() / "ben.safetensors"
        with pytest.raises(ValueError, match="has this name already and would be loaded instead"):
            path_to_save("anna", overwrite=True)
    finally:
        taken.unlink()


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("", [0.5, 0.5]),
        ("2, 1", [2 / 3, 1 / 3]),
        (" 1,0 ", [1.0, 0.0]),
        ("3,-1", [1.5, -0.5]),
        ("1e-9, 1e-9", [0.5, 0.5]),
    ],
)
def test_shares_sum_to_one(text, shares):
    from likeness.nodes.mix_identities import parse_shares

    assert parse_shares(text, 2) == pytest.approx(shares)


@pytest.mark.parametrize("text", ["0, 0", "1, -1", "0.1, -0.1", "1e-12, -1e-12"])
def test_weights_that_cancel_are_refused(text):
    from likeness.nodes.mix_identities import parse_shares

    with pytest.raises(ValueError, match="sum to 0"):
        parse_shares(text, 2)


def test_shares_do_not_depend_on_the_size_of_the_weights():
    from likeness.nodes.mix_identities import parse_shares

    assert parse_shares("200, 100, 100", 3) == pytest.approx(parse_shares("2, 1, 1", 3))


@pytest.fixture
def faces():
    """`faces([(side, picture), ...], num_pictures)`: faces of these sizes in the order given."""
    from likeness.faces.alignment import TEMPLATE_112
    from likeness.faces.types import Face, Faces

    def make(sides_and_pictures, num_pictures):
        found = tuple(
            Face((0.0, 0.0, float(side), float(side)), TEMPLATE_112.astype(np.float32) * side / 112, 1.0, picture)
            for side, picture in sides_and_pictures
        )
        return Faces(tuple(np.full((300, 300, 3), 10 * n, np.uint8) for n in range(num_pictures)), found, "bundled")

    return make


def test_the_largest_face_of_each_picture_is_used(faces):
    from likeness.nodes.reference_faces import choose_references

    chosen = choose_references({"faces_1": faces([(120, 1), (200, 0), (150, 1)], 2)}, no_face="error")
    assert chosen.names == ["picture 1", "picture 2"]
    assert [int(crop.max()) for crop in chosen.crops(224)] == [0, 10]
    assert chosen.warnings == [
        "picture 2 shows 2 faces; used number 3, the largest. Choose with Pick Faces if another one is meant"
    ]


def test_names_tell_inputs_and_pictures_apart(faces):
    from likeness.nodes.reference_faces import choose_references

    single, double = faces([(200, 0)], 1), faces([(200, 0), (200, 1)], 2)
    assert choose_references({"a": single, "b": single}, "error").names == ["picture 1", "picture 2"]
    names = choose_references({"a": single, "b": double}, "error").names
    assert names == ["picture 1 of input 1", "picture 1 of input 2", "picture 2 of input 2"]


def test_faceless_pictures_stop_or_are_skipped(faces):
    from likeness.nodes.reference_faces import choose_references

    three = faces([(200, 1)], 3)
    with pytest.raises(ValueError, match="no face in picture 1, picture 3"):
        choose_references({"a": three}, no_face="error")
    chosen = choose_references({"a": three}, no_face="skip picture")
    assert chosen.names == ["picture 2"] and len(chosen.warnings) == 2
    with pytest.raises(ValueError, match=r"no face in any of 2 pictures \(picture 1, picture 2\)"):
        choose_references({"a": faces([], 2)}, no_face="skip picture")
    nobody = choose_references({"a": faces([], 2)}, no_face="leave person out")
    assert nobody.names == [] and len(nobody.warnings) == 2
    assert choose_references({"a": three}, no_face="leave person out").names == ["picture 2"]
    for no_face in ("error", "skip picture", "leave person out"):
        with pytest.raises(ValueError, match="no picture is connected"):
            choose_references({}, no_face)


@pytest.mark.parametrize(("side", "warned"), [(111, True), (112, False)])
def test_faces_below_the_size_that_the_backbone_reads_are_noticed(faces, side, warned):
    from likeness.nodes.reference_faces import choose_references

    assert bool(choose_references({"a": faces([(side, 0)], 1)}, "error").warnings) == warned


def test_strangers_are_named_in_pairs_with_their_similarity():
    from likeness.nodes.reference_faces import find_strangers

    angles = torch.tensor([0.0, 0.3, 1.5])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = find_strangers(vectors, ["picture 1", "picture 2", "picture 3"])
    assert len(found) == 1
    assert found[0].startswith("picture 1 and picture 3 look like different people (similarity 0.07;")


def person(label, num_tokens=1):
    from likeness.adapters.identity import Identity

    return Identity("uniportrait", "", {half: torch.zeros(num_tokens, 4) for half in ("cond", "uncond")}, label)


def test_masks_belong_to_the_identity_of_their_number():
    from likeness.nodes.people import connected_people

    anna, ben, left = person("Anna"), person("Ben"), torch.ones(1, 4, 4)

    def connect(identities, masks):
        return connected_people(identities, masks, "Apply X")

    assert connect({"identity_1": anna, "identity_2": ben}, {"mask_2": left}) == ([anna, ben], (None, left))
    assert connect({"identity_1": anna, "identity_3": ben}, {"mask_3": left}) == ([anna, ben], (None, left))
    with pytest.raises(ValueError, match="Apply X: mask_2 is connected, but identity_2 is not"):
        connect({"identity_1": anna, "identity_3": ben}, {"mask_2": left})


def test_a_person_without_a_face_is_left_out_with_their_mask():
    from likeness.nodes.people import connected_people

    anna, nobody, ben = person("Anna"), person("", num_tokens=0), person("Ben")
    left, right = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    people = {"identity_1": anna, "identity_2": nobody, "identity_3": ben}
    assert connected_people(people, {"mask_2": left, "mask_3": right}, "") == ([anna, ben], (None, right))
    assert connected_people({"identity_1": nobody}, {}, "") == ([], ())
