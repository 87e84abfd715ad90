from __future__ import annotations

import argparse
import errno
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from likeness.trainer.data import prepare
from likeness.trainer.data.examination import PrepareSettings
from likeness.trainer.data.picture_set import open_dataset
from likeness.trainer.data.preparation import prepare_pictures
from likeness.trainer.data.records import PictureRecord
from PIL import Image

# What a user's command line runs, and the command line of this file's processes.
COMMAND = """
import argparse, sys
from likeness.trainer.data import prepare

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    prepare.add_parser(parser.add_subparsers())
    args = parser.parse_args()
    try:
        sys.exit(args.run(args))
    except ValueError as error:
        sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photographs):
    """Nine good photographs with captions, and one of every kind that is refused."""
    folder = tmp_path_factory.mktemp("photos") / "in"
    paths = photographs(folder, 9)
    (folder / "damaged.jpg").write_bytes(paths[0].read_bytes()[:5000])
    (folder / "junk.png").write_bytes(b"hello")
    Image.open(paths[1]).resize((200, 226)).save(folder / "zz copy.png")
    shutil.copy(paths[1].with_suffix(".txt"), folder / "zz copy.txt")
    noise = np.random.default_rng(0).integers(0, 60, (300, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / "nobody.png")
    (folder / "nobody.txt").write_text("nobody")
    Image.open(paths[0]).resize((90, 100)).save(folder / "small.png")
    Image.open(paths[2]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "uncaptioned.png")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory, face):
    """Nine drawn pictures with records beside them, and two that are refused."""
    folder = tmp_path_factory.mktemp("world") / "in"
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(9):
        Image.fromarray(random.integers(0, 255, (64, 80, 3), np.uint8)).save(folder / f"p{number}.png")
        side = 20 + 4 * number
        record = PictureRecord(f"caption {number}", (face(4, 4, 4 + side, 4 + side),))
        (folder / f"p{number}.json").write_bytes(record.to_json())
    (folder / "junk.png").write_bytes(b"hello")
    shutil.copy(folder / "p0.png", folder / "uncaptioned.png")
    (folder / "uncaptioned.json").write_bytes(PictureRecord("", (face(4, 4, 40, 40),)).to_json())
    return folder


@pytest.fixture
def given(world, tmp_path):
    """Settings that trust the records of `world`: no detection, so that the tests are quick."""
    return PrepareSettings((world,), tmp_path / "set", trust_faces=True, min_side=32, min_face=16, samples_per_shard=3)


@pytest.fixture(scope="module")
def unbroken(photos, tmp_path_factory):
    """The set of an undisturbed run with one worker."""
    out = tmp_path_factory.mktemp("unbroken") / "set"
    settings = PrepareSettings(inputs=(photos,), out=out, detector="bundled", min_side=128, samples_per_shard=3)
    return out, prepare_pictures(settings)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusals(folder):
    lines = [json.loads(line) for line in (folder / "refused.jsonl").read_text("utf-8").splitlines()]
    return {line["file"]: line["reason"] for line in lines}


def test_good_pictures_are_taken_and_others_listed_with_the_reason(unbroken):
    out, summary = unbroken
    assert (summary.num_sources, summary.taken) == (15, {1: 9})
    assert refusals(out) == {
        "damaged.jpg": "unreadable picture",
        "junk.png": "unreadable picture",
        "nobody.png": "no face",
        "small.png": "picture too small",
        "uncaptioned.png": "no caption",
        "zz copy.png": "near-duplicate",
    }
    assert sum(summary.refused.values()) == 6 and summary.refused["unreadable picture"] == 2
    assert sorted(files(out)) == [
        "dataset.json", "refused.jsonl", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar",
    ]  # fmt: skip


def test_a_taken_picture_is_stored_as_it_was_with_its_face(unbroken, photos):
    pictures = open_dataset(unbroken[0])
    for number, sample in enumerate(map(pictures.sample, range(len(pictures)))):
        assert sample.key == f"{number:08d}"
        assert sample.record.caption == f"an astronaut, picture {number}"
        assert sample.record.source == f"photo{number:02d}.jpg"
        assert sample.read("jpg") == (photos / sample.record.source).read_bytes()
        crop = sample.crop(0)
        assert crop.shape == (224, 224, 3)
        (face,) = sample.record.faces
        x1, y1, x2, y2 = face.box
        assert face.score >= 0.7 and min(x2 - x1, y2 - y1) >= 64
        assert all(x1 < x < x2 and y1 < y < y2 for x, y in face.landmarks)


def command(folder, out, *more):
    return (
        "prepare",
        folder,
        "--out",
        out,
        "--detector",
        "bundled",
        "--min-side",
        128,
        "--samples-per-shard",
        3,
        *more,
    )


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_killed_and_run_again_it_ends_with_the_same_bytes(unbroken, photos, run_python, tmp_path):
    """With two workers until it is killed and one afterwards; the undisturbed run had one."""
    out, script = tmp_path / "set", tmp_path / "command.py"
    script.write_text(COMMAND)  # workers import the main module, so it must be a file
    start = f"import runpy, sys; sys.argv[0] = {str(script)!r}; runpy.run_path({str(script)!r}, run_name='__main__')"
    process = run_python(start, *command(photos, out, "--workers", 2))
    note = out / "unfinished" / "shard-000001.json"
    deadline = time.monotonic() + 100
    while not note.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = children(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and note.exists() and len(workers) >= 2
    kept = {path.name: path.stat().st_ino for path in (out / "unfinished").glob("shard-00000[01].tar")}
    with pytest.raises(ValueError, match="is not complete"):
        open_dataset(out)
    settings = PrepareSettings((photos,), out, "bundled", min_side=128, samples_per_shard=3)
    with pytest.raises(ValueError, match=r"unfinished set .* made otherwise: min_score \(0.7, now 0.8\)"):
        prepare_pictures(replace(settings, min_score=0.8))
    prepare_pictures(settings)
    assert files(out) == files(unbroken[0])
    assert {name: (out / name).stat().st_ino for name in kept} == kept  # moved, not made again
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(pid):
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_kill_at_any_write_can_be_mended(given, forked, killed_at, tmp_path):
    whole = replace(given, out=tmp_path / "whole")
    prepare_pictures(whole)
    for limit in itertools.count():
        settings = replace(given, out=tmp_path / f"killed{limit}")
        code, _ = forked(killed_at(limit, lambda settings=settings: prepare_pictures(settings)))
        prepare_pictures(settings)
        assert files(settings.out) == files(whole.out), limit
        if code == 0:
            break
        assert code == 9
    assert limit == 1 + 2 * 3 + 1 + 1 + 3 + 1 + 1  # plan, shards and notes, last note, refusals, moves, index, end


def test_a_finished_set_is_left_as_it_is(given):
    summary = prepare_pictures(given)
    before = {path: path.stat().st_mtime_ns for path in given.out.iterdir()}
    assert prepare_pictures(given) == summary
    assert {path: path.stat().st_mtime_ns for path in given.out.iterdir()} == before
    with pytest.raises(ValueError, match=r"a finished set that was made otherwise: faces \(\[1, 1\], now \[2, 6\]\)"):
        prepare_pictures(replace(given, faces=(2, 6)))


def test_a_full_disk_keeps_whole_shards_and_says_so(given, forked, tmp_path, capfd):
    """A limit on the length of files gives the same fault as a full disk, and from the system itself."""
    whole = replace(given, out=tmp_path / "whole")
    prepare_pictures(whole)

    def limited():
        sys.unraisablehook = sys.__unraisablehook__  # pytest has its own, which keeps faults in destructors back
        longest = (whole.out / "shard-000000.tar").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
        prepare_pictures(given)

    code, message = forked(limited)
    assert capfd.readouterr().err == ""
    third = (whole.out / "shard-000001.tar").stat().st_size > (whole.out / "shard-000000.tar").stat().st_size
    assert code == 1 and third
    assert f"failed: {os.strerror(errno.EFBIG)}. 1 whole shards with 3 pictures are kept; make room" in message
    left = sorted(path.name for path in (given.out / "unfinished").iterdir())
    assert left == ["plan.json", "shard-000000.json", "shard-000000.tar"]
    prepare_pictures(given)
    assert files(given.out) == files(whole.out)


def test_limits_refuse_faces_and_pictures(given):
    assert prepare_pictures(replace(given, out=given.out / "a", min_face=30)).refused["face too small"] == 3
    assert prepare_pictures(replace(given, out=given.out / "b", min_face_share=0.5)).refused["face too small"] == 3
    with pytest.raises(ValueError, match=r"none of the 11 pictures was taken: 10 wrong number of faces, 1 unreadable"):
        prepare_pictures(replace(given, out=given.out / "c", faces=(2, 6)))
    with pytest.raises(ValueError, match="none of the 11 pictures was taken: 10 face score too low"):
        prepare_pictures(replace(given, out=given.out / "d", min_score=0.95))
    with pytest.raises(ValueError, match="none of the 11 pictures was taken: 10 picture too small"):
        prepare_pictures(replace(given, out=given.out / "e", min_side=65))
    assert [path.name for path in (given.out / "e").iterdir()] == ["refused.jsonl"]


def test_scores_filter_where_there_are_some(given, tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("file,score\n" + "".join(f"p{number}.png,{4 + number / 4}\n" for number in range(8)))
    summary = prepare_pictures(replace(given, aesthetic_scores=table))
    assert (summary.taken, summary.refused["aesthetic score too low"]) == ({1: 4}, 4)
    assert refusals(given.out)["p8.png"] == "no aesthetic score"


def test_captions_come_from_a_command_or_may_be_empty(given):
    script = "import sys, os; print('made for', os.path.basename(sys.argv[1]))"
    keep = replace(given, duplicate_distance=-1)
    prepare_pictures(replace(keep, captioner=f'{sys.executable} -c "{script}" {{file}}'))
    pictures = open_dataset(given.out)
    captions = {s.record.source: s.record.caption for s in map(pictures.sample, range(len(pictures)))}
    assert captions["uncaptioned.png"] == "made for uncaptioned.png" and captions["p0.png"] == "caption 0"
    assert prepare_pictures(replace(keep, out=given.out / "empty", allow_empty_captions=True)).taken == {1: 10}
    failing = replace(keep, out=given.out / "failing", captioner=f'{sys.executable} -c "exit(1)" {{file}}')
    assert prepare_pictures(failing).refused["captioner failed"] == 1


@pytest.fixture
def labelled(given, tmp_path):
    table = tmp_path / "people.csv"
    people = {0: "Ada", 1: "Ada", 2: "Ada", 6: "Bob", 8: "Ada"}
    table.write_text("file,person\n" + "".join(f"p{number}.png,{name}\n" for number, name in people.items()))
    return replace(given, labels=table, others=2)


def test_other_photographs_of_labelled_people_come_along(labelled):
    prepare_pictures(labelled)
    pictures = open_dataset(labelled.out)
    samples = [pictures.sample(number) for number in range(9)]
    people = ["Ada", "Ada", "Ada", None, None, None, "Bob", None, "Ada"]
    assert [sample.record.faces[0].person for sample in samples] == people
    assert [sample.num_others for sample in samples] == [2, 2, 2, 0, 0, 0, 0, 0, 2]
    for number, others in {0: (1, 2), 2: (8, 0), 8: (0, 1)}.items():
        for place, other in enumerate(others):
            np.testing.assert_array_equal(samples[number].other_crop(place), samples[other].crop(0))


def test_labelled_sets_too_can_be_killed_at_any_write(labelled, forked, killed_at, tmp_path):
    whole = replace(labelled, out=tmp_path / "whole")
    prepare_pictures(whole)
    for limit in itertools.count():
        settings = replace(labelled, out=tmp_path / f"killed{limit}")
        code, _ = forked(killed_at(limit, lambda settings=settings: prepare_pictures(settings)))
        prepare_pictures(settings)
        assert files(settings.out) == files(whole.out), limit
        if code == 0:
            break
    assert limit >= 13


def test_a_picture_that_kills_its_worker_is_refused(given):
    """The captioner kills the process that called it, as a fault in a decoder would."""
    script = "import os, sys; os.kill(os.getppid(), 9) if 'uncaptioned' in sys.argv[1] else print('x')"
    killing = replace(given, workers=2, captioner=f'{sys.executable} -c "{script}" {{file}}', duplicate_distance=-1)
    assert prepare_pictures(killing).taken == {1: 9}
    assert refusals(given.out) == {"junk.png": "unreadable picture", "uncaptioned.png": "unreadable picture"}
    assert "the process reading it died (-9)" in (given.out / "refused.jsonl").read_text()


def test_what_is_no_file_is_refused_and_not_waited_for(given, world, tmp_path):
    folder = shutil.copytree(world, tmp_path / "in")
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    assert prepare_pictures(replace(given, inputs=(folder,))).taken == {1: 9}
    assert refusals(given.out)["pipe.png"] == refusals(given.out)["link.png"] == "unreadable picture"


def drawn_world(folder, face, count=6):
    """Pictures with records and masks beside them, smallest face not last."""
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(count):
        faces = (face(4, 8, 40, 56), face(60, 4, 140, 92), replace(face(2, 2, 20, 12), score=0.2))
        mask = np.zeros((96, 160), np.uint8)
        mask[8:56, 4:40], mask[4:92, 60:140] = 1, 2
        Image.fromarray(random.integers(0, 255, (96, 160, 3), np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}.mask.png")
        (folder / f"{number}.json").write_bytes(PictureRecord(f"c{number}", faces, "x", {"hat": number}).to_json())
    return folder


def test_given_faces_are_trusted_sorted_and_their_masks_follow(tmp_path, face):
    folder = drawn_world(tmp_path / "in", face)
    (folder / "3.json").unlink()
    (folder / "4.json").write_text('{"caption": "c", "faces": [{}]}')
    Image.new("L", (10, 10)).save(folder / "5.mask.png")
    settings = PrepareSettings(
        (folder,), tmp_path / "set", trust_faces=True, faces=(2, 3), min_side=64, min_face=30, max_side=80
    )
    summary = prepare_pictures(settings)
    assert summary.taken == {2: 3} and refusals(tmp_path / "set") == dict.fromkeys(
        ["3.png", "4.png", "5.png"], "faulty file beside it"
    )
    pictures = open_dataset(tmp_path / "set")
    sample = pictures.sample(1)
    assert pictures.sizes[1].tolist() == [80, 48]
    assert [face.box for face in sample.record.faces] == [(30, 2, 70, 46), (2, 4, 20, 28)]
    assert sample.record.attributes == {"hat": 1} and sample.record.caption == "c1"
    labels = sample.labels()
    assert (labels[2:46, 30:70] == 1).all() and (labels[4:28, 2:20] == 2).all() and (labels > 0).sum() == 1760 + 432


def test_several_people_in_a_photograph(tmp_path):
    package = pytest.importorskip("insightface").__path__[0]
    shutil.copytree(
        os.path.join(package, "data", "images"), tmp_path / "in", ignore=lambda _, names: set(names) - {"t1.jpg"}
    )
    out = tmp_path / "set"
    settings = PrepareSettings(
        (tmp_path / "in",), out, "bundled", faces=(2, 6), max_side=640, allow_empty_captions=True
    )
    assert prepare_pictures(settings).taken == {6: 1}
    sample = open_dataset(out).sample(0)
    assert sample.picture().shape[1] == 640 and sample.crop(5).shape == (224, 224, 3)
    areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in sample.record.faces]
    assert areas == sorted(areas, reverse=True)


def test_folders_that_cannot_be_prepared_are_named(tmp_path, given):
    settings = PrepareSettings((tmp_path / "none",), tmp_path / "set", "bundled", min_side=32)
    with pytest.raises(ValueError, match="there is no folder .*none"):
        prepare_pictures(settings)
    with pytest.raises(ValueError, match=r"there are no pictures \(.png, .*\) in"):
        prepare_pictures(replace(settings, inputs=(tmp_path,)))
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    Image.new("RGB", (100, 100), "navy").save(nobody / "a.png")
    with pytest.raises(ValueError, match="No face was found in any of them"):
        prepare_pictures(replace(settings, inputs=(nobody,)))
    with pytest.raises(ValueError, match="nobody is not empty"):
        prepare_pictures(replace(given, out=nobody))
    with pytest.raises(ValueError, match="no insightface face detector was found"):
        prepare_pictures(replace(settings, inputs=(nobody,), detector="insightface", out=tmp_path / "x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every folder")
def test_an_unreadable_folder_is_named(tmp_path, given):
    (tmp_path / "in" / "locked").mkdir(parents=True)
    (tmp_path / "in" / "locked").chmod(0)
    try:
        with pytest.raises(ValueError, match="locked cannot be read"):
            prepare_pictures(replace(given, inputs=(tmp_path / "in",)))
    finally:
        (tmp_path / "in" / "locked").chmod(0o700)


def test_the_command_says_what_it_did(given, capsys):
    parser = argparse.ArgumentParser()
    prepare.add_parser(parser.add_subparsers())
    options = ["--trust-faces", "--min-side", "32", "--min-face", "16", "--workers", "1", "--faces", "1-2"]
    args = parser.parse_args(["prepare", str(given.inputs[0]), "--out", str(given.out), *options])
    assert args.run(args) == 0
    said = capsys.readouterr().out
    assert f"{given.out}: 9 of 11 pictures taken (by number of faces: 9 with 1)" in said
    assert f"2 refused, each listed in {given.out / 'refused.jsonl'}" in said and "1  unreadable picture" in said
    with pytest.raises(SystemExit):
        parser.parse_args(["prepare", "x", "--out", "y", "--faces", "3-2"])
    assert "'3-2' is no number of faces" in capsys.readouterr().err
