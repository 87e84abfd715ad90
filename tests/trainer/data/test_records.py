from __future__ import annotations

import json

import pytest
from likeness.trainer.data.records import PictureRecord, parse_record

FACE = {"box": [1, 2, 30, 40], "landmarks": [[5, 6], [20, 6], [12, 15], [6, 30], [20, 30]], "score": 0.9, "person": "a"}
PICTURE = {"caption": "ein Bär", "faces": [FACE], "source": "x/y.jpg"}


def faulty(**changes: object) -> bytes:
    return json.dumps({**PICTURE, **changes}).encode()


def faulty_face(**changes: object) -> bytes:
    return json.dumps({**PICTURE, "faces": [FACE, {**FACE, **changes}]}).encode()


def test_a_record_survives_writing_and_reading(face):
    record = PictureRecord("two\nlines and 'ü'", (face(3, 4, 40.25, 50, person="Ada"), face(1, 1, 9, 9)), "in/a.png")
    assert parse_record(record.to_json(), "x") == record
    assert parse_record(PictureRecord("c", (), attributes={"shirt": "red"}).to_json(), "x").attributes == {
        "shirt": "red"
    }


def test_score_person_and_source_may_be_absent():
    picture = {"caption": "c", "faces": [{"box": FACE["box"], "landmarks": FACE["landmarks"]}]}
    record = parse_record(json.dumps(picture).encode(), "x")
    assert (record.faces[0].score, record.faces[0].person, record.source) == (1.0, None, "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "a.json is no valid JSON"),
        (b"\xff\xfe", "a.json is no valid JSON"),
        (b"[]", "a.json: the file must be a JSON object"),
        (faulty(caption=None), "a.json: the field `caption` must be text, got nothing"),
        (faulty(faces="two"), "the field `faces` must be a list"),
        (faulty(capton="x"), "unknown field `capton`"),
        (faulty(attributes=[1]), "`attributes` must be a JSON object"),
        (faulty_face(box=[1, 2, 3]), r"`faces\[1\].box` must hold 4"),
        (faulty_face(box=[30, 2, 1, 40]), r"`faces\[1\].box` must be x1, y1, x2, y2"),
        (faulty_face(box=[1, 2, float("nan"), 40]), r"`faces\[1\].box` must hold 4 finite"),
        (faulty_face(landmarks=[[1, 2]]), r"`faces\[1\].landmarks` must be five"),
        (faulty_face(landmarks=[[1, 2]] * 4 + [[1, "2"]]), r"`faces\[1\].landmarks\[4\]` must hold 2"),
        (faulty_face(score="high"), r"`faces\[1\].score`"),
        (faulty_face(score=True), r"`faces\[1\].score`"),
        (faulty_face(person=7), r"`faces\[1\].person` must be a name or null"),
        (faulty_face(name="x"), r"unknown field `faces\[1\].name`"),
    ],
)
def test_faults_are_named_with_file_and_field(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_record(content, "a.json")
    assert "a.json" in str(caught.value)
