from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
from likeness.trainer.data.captioner import Captioner, CaptionFailed
from likeness.trainer.data.duplicates import NearDuplicates, difference_hash
from likeness.trainer.data.examination import renumbered
from likeness.trainer.data.samples import encode_like, picture_size, storable_type
from likeness.trainer.data.sources import find_sources, read_sidecar, read_table
from PIL import Image


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()


def recoded(picture, quality, side):
    file = io.BytesIO()
    Image.fromarray(picture).resize((side, side)).save(file, "jpeg", quality=quality)
    return np.array(Image.open(file))


def test_copies_are_near_and_other_pictures_are_far(astronaut):
    own = difference_hash(astronaut)
    for copy in (recoded(astronaut, 50, 512), recoded(astronaut, 75, 300), (astronaut * 0.9).astype(np.uint8)):
        assert (own ^ difference_hash(copy)).bit_count() <= 10
    for other in (astronaut[:, ::-1], astronaut[60:452, 60:452], astronaut[30:]):
        assert (own ^ difference_hash(other)).bit_count() > 20


@pytest.mark.parametrize("distance", [0, 3, 10])
def test_near_duplicates_are_found_exactly_up_to_the_distance(distance):
    random = np.random.default_rng(0)
    known = [int.from_bytes(random.bytes(32), "big") for _ in range(50)]
    seen = NearDuplicates(distance)
    for number, value in enumerate(known):
        seen.add(value, str(number))
    for flips in range(distance + 4):
        for number, value in enumerate(known[:20]):
            changed = value
            for bit in random.choice(256, flips, replace=False).tolist():
                changed ^= 1 << bit
            assert seen.find(changed) == (str(number) if flips <= distance else None)


def test_the_captioner_is_run_without_a_shell(tmp_path):
    picture = tmp_path / "a picture; $(touch x) 'q'.jpg"
    picture.write_text("a  man\nwith a hat\n")
    script = "import sys; print(open(sys.argv[1]).read())"
    assert Captioner(f'{sys.executable} -c "{script}" {{file}}', 30).caption(picture) == "a man with a hat"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; print('no such model', file=sys.stderr); sys.exit(3)", r"failed \(3\): no such model"),
        ("pass", "wrote nothing"),
        ("import time; time.sleep(60)", "longer than 0.5 s"),
    ],
)
def test_a_captioner_that_fails_says_how(tmp_path, script, message):
    with pytest.raises(CaptionFailed, match=message):
        Captioner(f'{sys.executable} -c "{script}" {{file}}', 0.5 if "sleep" in script else 30).caption(tmp_path)


def test_captioner_commands_are_checked_before_they_run():
    with pytest.raises(ValueError, match="must hold {file}"):
        Captioner("caption", 1)
    with pytest.raises(ValueError, match="'no-such-program-7' is no program"):
        Captioner("no-such-program-7 {file}", 1)


def test_masks_are_renumbered_to_the_faces():
    labels = np.zeros((20, 40), np.uint8)
    labels[5:15, 2:12], labels[5:15, 22:38], labels[0:3, 0:40] = 7, 3, 9
    boxes = [(20, 4, 40, 16), (0, 4, 14, 16)]
    found = renumbered(labels, boxes, None)
    assert (found == np.where(labels == 3, 1, np.where(labels == 7, 2, 0))).all()
    assert (renumbered(labels, boxes, [9, 3]) == np.where(labels == 9, 1, np.where(labels == 3, 2, 0))).all()


def test_of_two_faces_on_one_label_only_the_better_gets_it():
    labels = np.zeros((20, 40), np.uint8)
    labels[:, 10:30] = 1
    assert set(np.unique(renumbered(labels, [(0, 0, 14, 20), (12, 0, 32, 20)], None))) == {0, 2}


def test_sources_are_found_in_order_and_parts_of_samples_are_not(tmp_path):
    for name in ("b.JPG", "a/2.png", "a/1.webp", "a/1.mask.png", "a/1.face0.png", "a/1.other3.png", "c.txt", "d.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [source.name for source in find_sources([tmp_path])] == ["a/1.webp", "a/2.png", "b.JPG", "d.tiff"]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.png").touch()
    twice = [source.name for source in find_sources([tmp_path / "more", tmp_path / "a"])]
    assert twice == ["more/a.png", "a/1.webp", "a/2.png"]


def test_file_names_that_are_no_text_are_spelled_out(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    (source,) = find_sources([tmp_path])
    assert source.name == "caf\\udce9.png" and source.path.exists()


def test_sidecars_give_caption_person_and_faces(tmp_path):
    picture = tmp_path / "a.jpg"
    assert read_sidecar(picture, False).caption is None
    (tmp_path / "a.json").write_text('{"caption": "from json", "person": "Ada"}')
    sidecar = read_sidecar(picture, False)
    assert (sidecar.caption, sidecar.person, sidecar.record) == ("from json", "Ada", None)
    (tmp_path / "a.txt").write_text("\ufefffrom\n text", "utf-8")
    assert read_sidecar(picture, False).caption == "from text"
    (tmp_path / "a.json").write_text('{"faces": [{"person": "Bob"}]}')
    assert read_sidecar(picture, False).person == "Bob"
    with pytest.raises(ValueError, match=r"a.json: the field `faces\[0\].box`"):
        read_sidecar(picture, True)
    with pytest.raises(ValueError, match="b.json is missing"):
        read_sidecar(tmp_path / "b.jpg", True)


def test_tables_are_checked(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("file,person\na.jpg,Ada\nb/c.jpg,Bob\n")
    assert read_table(table, "person") == {"a.jpg": "Ada", "b/c.jpg": "Bob"}
    with pytest.raises(ValueError, match="people.csv, line 2: the columns must be `file` and `score`"):
        read_table(table, "score")
    table.write_text("file,person\na.jpg,Ada\na.jpg,Bob\n")
    with pytest.raises(ValueError, match="line 3: a.jpg was Ada before and is Bob here"):
        read_table(table, "person")
    with pytest.raises(ValueError, match="cannot be read"):
        read_table(tmp_path / "none.csv", "person")


def test_what_can_be_stored_as_it_is(astronaut):
    def file(kind, **options):
        content = io.BytesIO()
        Image.fromarray(astronaut[:40, :60]).save(content, kind, **options)
        return content.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    assert [storable_type(file(kind)) for kind in ("png", "jpeg", "webp", "bmp", "tiff")] == [
        "png", "jpg", "webp", None, None,
    ]  # fmt: skip
    assert storable_type(file("jpeg", exif=turned)) is None
    assert (picture_size(file("jpeg", exif=turned), "x"), picture_size(file("png"), "x")) == ((40, 60), (60, 40))
    assert [encode_like(astronaut, file(kind))[1] for kind in ("jpeg", "webp", "tiff")] == ["jpg", "jpg", "png"]
