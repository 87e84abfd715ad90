from __future__ import annotations

import json

import numpy as np
import pytest
from likeness.synthetic.__main__ import main
from likeness.synthetic.captions import words
from likeness.synthetic.disk import Wanted, label_map, scenes_of, write
from PIL import Image

WANTED = Wanted(people=5, pictures_per_person=2, size=(32, 64), seed=3, people_per_picture=2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_says_everything_about_its_pictures(tmp_path):
    told = []
    assert write(tmp_path / "out", WANTED, progress=lambda done, total: told.append((done, total))) == 6
    assert told[-1] == (6, 6)
    for key, scene in scenes_of(WANTED):
        record = json.loads((tmp_path / "out" / f"{key}.json").read_text())
        assert words(record["caption"])
        assert {face["person"] for face in record["faces"]} == {f"train-{person.seed}" for person in scene.people}
        picture = np.asarray(Image.open(tmp_path / "out" / f"{key}.png"))
        labels = np.asarray(Image.open(tmp_path / "out" / f"{key}.mask.png"))
        assert picture.shape == (32, 64, 3) and labels.shape == (32, 64)
        sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (face["box"] for face in record["faces"])]
        assert sizes == sorted(sizes, reverse=True)
        for label, face in enumerate(record["faces"], start=1):
            assert face["score"] == 1.0 and len(face["landmarks"]) == 5
            x, y = np.round(face["landmarks"][2]).astype(int)
            assert labels[y, x] == label


def test_everybody_is_in_as_many_pictures():
    wanted = Wanted(people=6, pictures_per_person=3, size=(32, 96), seed=0, people_per_picture=3, split="test")
    seen = [person.seed for _, scene in scenes_of(wanted) for person in scene.people]
    assert len(seen) == 18 and all(seen.count(person) == 3 for person in seen)
    assert all(len({person.seed for person in scene.people}) == 3 for _, scene in scenes_of(wanted))


def test_a_stopped_run_goes_on(tmp_path):
    write(tmp_path / "whole", WANTED)
    write(tmp_path / "stopped", WANTED)
    for name in ("0000002.json", "0000005.json", "0000005.png"):
        (tmp_path / "stopped" / name).unlink()
    assert write(tmp_path / "stopped", WANTED) == 2
    assert write(tmp_path / "stopped", WANTED) == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="holds something else"):
        write(tmp_path, WANTED)
    assert contents(tmp_path) == {"diary.txt": b"dear diary"}
    write(tmp_path / "out", WANTED)
    with pytest.raises(ValueError, match="holds another set"):
        write(tmp_path / "out", Wanted(people=5, pictures_per_person=3, size=(32, 64), seed=3))


def test_the_command_line(tmp_path, capsys):
    options = "--people 2 --pictures-per-person 1 --size 32 --split test"
    assert main([str(tmp_path / "out"), *options.split()]) == 0
    assert "2 of 2 pictures" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "0000000.json").read_text())
    assert record["faces"][0]["person"].startswith("test-")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "big", "--size must be"),
        ("--size", "30", "multiples of 8"),
        ("--people", "0", "people per picture must be 1 to 0"),
        ("--seed", "-1", "must not be negative"),
    ],
)
def test_wrong_requests_leave_nothing_behind(tmp_path, capsys, option, value, message):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "out"), "--people", "2", option, value])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_label_map_takes_what_covers_most():
    masks = np.zeros((2, 1, 4), np.float32)
    masks[0, 0] = [0.0, 0.4, 0.6, 0.5]
    masks[1, 0] = [0.0, 0.4, 0.4, 0.5]
    assert label_map(masks).tolist() == [[0, 0, 1, 1]]
