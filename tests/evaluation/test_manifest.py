"""The manifest is read strictly: every fault is named before anything is measured."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydantic")
from likeness.evaluation.manifest import read_manifest
from likeness.evaluation.pictures import load_masks, load_routing


def record(file="ann-1.png", row="row", **fields):
    return {"file": file, "row": row, "references": [{"person": "ann", "files": ["ann.png"]}], **fields}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.jsonl"])
def test_both_forms_say_the_same(write_manifest, name):
    records = [
        record(prompt="a person", seed=3, expected={"people": 1, "shirt": "red", "glasses": None}),
        record("ann+bob-1.png", "other", others=[{"person": "bob", "files": ["bob.png"]}]),
    ]
    task = read_manifest(write_manifest(records, name, conditioned_by=["a" * 64, "curricular"]))
    first, second = task.pictures
    assert task.conditioned_by == ("a" * 64, "curricular")
    assert (first.name, first.row, first.prompt, first.seed) == ("ann-1.png", "row", "a person", 3)
    assert first.image.name == "ann-1.png" and first.image.is_file()
    assert first.expected == {"people": 1, "shirt": "red", "glasses": None}
    assert first.references[0] is second.references[0] and second.others[0].person == "bob"


def test_faces_are_compared_to_other_photos_where_they_are_named(write_manifest):
    reference = {"person": "ann", "files": ["ann.png"], "compare": ["eve.png"]}
    manifest = write_manifest([record(references=[reference]), record("ann-2.png"), record("eve.png")])
    first, second, _ = read_manifest(manifest).pictures
    assert [photo.name for photo in first.references[0].photos] == ["eve.png"]
    assert [photo.name for photo in second.references[0].photos] == ["ann.png"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"promt": "a person"}, r"pictures\.0\.promt: extra inputs are not permitted"),
        ({"seed": "3"}, r"pictures\.0\.seed: input should be a valid integer"),
        ({"row": ""}, r"pictures\.0\.row: string should have at least 1 character"),
        ({"references": [{"person": "ann", "files": []}]}, r"references\.0\.files: list should have at least 1 item"),
        (
            {"routing": "nothing.npz", "masks": "no.png"},
            "2 files of the manifest .* are not there: nothing.npz, no.png",
        ),
    ],
)
def test_faults_are_named(write_manifest, fields, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write_manifest([record(**fields)]))


def test_only_some_of_many_faults_are_listed(write_manifest):
    with pytest.raises(ValueError, match="and 7 more"):
        read_manifest(write_manifest([record(wrong=1) for _ in range(12)]))


def test_the_head_must_say_what_conditioned(write_manifest, tmp_path):
    with pytest.raises(ValueError, match="conditioned_by must name the SHA-256 .* got 'backbone.bin'"):
        read_manifest(write_manifest([record()], conditioned_by=["backbone.bin"]))
    with pytest.raises(ValueError, match="format: input should be 1"):
        read_manifest(write_manifest([record()], format=2))
    (tmp_path / "manifest.json").write_text('{"format": 1, "pictures": []}')
    with pytest.raises(ValueError, match="conditioned_by: field required"):
        read_manifest(tmp_path / "manifest.json")


def test_files_that_are_no_manifest_are_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.json could not be read"):
        read_manifest(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("a text")
    with pytest.raises(ValueError, match="text.json is not valid JSON"):
        read_manifest(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="the whole: input should be a valid dictionary"):
        read_manifest(tmp_path / "list.json")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="format: field required"):
        read_manifest(tmp_path / "empty.jsonl")


def test_masks_and_routing_come_from_their_files(write_manifest, tmp_path):
    labels = np.array([[0, 1, 2], [0, 1, 2]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    np.savez(tmp_path / "masks.npz", masks=np.stack([labels == 1, labels == 2]))
    np.savez(tmp_path / "routing.npz", **{"17": labels, "3": labels})
    two = [{"person": name, "files": [f"{name}.png"]} for name in ("ann", "bob")]
    manifest = write_manifest(
        [
            record("ann+bob-1.png", references=two, masks="labels.png", routing="routing.npz"),
            record("ann+bob-2.png", references=two, masks="masks.npz"),
            record(masks="labels.png", row="one"),
            record("ann-2.png", row="one", masks="masks.npz", routing="masks.npz"),
        ]
    )
    first, second, third, fourth = read_manifest(manifest).pictures
    np.testing.assert_array_equal(load_masks(first), load_masks(second))
    assert load_masks(first).tolist() == [(labels == 1).tolist(), (labels == 2).tolist()]
    assert sorted(load_routing(first)) == [3, 17] and load_routing(second) == {}
    with pytest.raises(ValueError, match=r"values 0 \(nobody\) to 1"):
        load_masks(third)
    with pytest.raises(ValueError, match=r"has masks of shape \(2, 2, 3\) for 1 people"):
        load_masks(fourth)
    with pytest.raises(ValueError, match="must be named by layer numbers such as 17, not masks"):
        load_routing(fourth)
