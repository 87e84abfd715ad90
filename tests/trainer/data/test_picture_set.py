from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import shutil
import tarfile

import numpy as np
import pytest
from likeness.trainer.data.index import INDEX_FILE, CacheInfo
from likeness.trainer.data.picture_set import open_dataset
from likeness.trainer.data.reading import ShardReader
from likeness.trainer.data.records import PictureRecord
from likeness.trainer.data.samples import make_sample
from likeness.trainer.data.shards import write_shard
from PIL import Image


@pytest.fixture(scope="module")
def original(tmp_path_factory, write_set, drawn):
    """Ten samples in three shards: one or two faces, square and wide."""
    two = ((4, 8, 40, 60), (70, 10, 100, 50))
    samples = [
        drawn((128, 64), two, mask=True) if number % 3 == 1 else drawn(num_others=number % 2) for number in range(10)
    ]
    return write_set(tmp_path_factory.mktemp("original") / "set", samples)


@pytest.fixture
def mixed(original, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(original, tmp_path / "set")


def unpacked(folder, target):
    """The plain folder of a set of shards."""
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            archive.extractall(target, filter="data")
    return target


def contents(pictures):
    samples = [pictures.sample(number) for number in range(len(pictures))]
    return [
        (
            s.key,
            s.record,
            s.picture().tobytes(),
            [s.crop(k).tobytes() for k in range(len(s.record.faces))],
            s.num_others,
        )
        for s in samples
    ]


def test_sizes_faces_and_members_are_known_without_reading(mixed):
    pictures = open_dataset(mixed)
    for tar in mixed.glob("*.tar"):
        tar.unlink()  # nothing below reads them
    assert len(pictures) == 10
    assert pictures.sizes.tolist() == [[128, 64] if number % 3 == 1 else [64, 64] for number in range(10)]
    assert pictures.num_faces.tolist() == [2 if number % 3 == 1 else 1 for number in range(10)]
    assert pictures.boxes(1) == [(4, 8, 40, 60), (70, 10, 100, 50)]
    assert pictures.with_member("mask.png").tolist() == [number % 3 == 1 for number in range(10)]
    assert pictures.with_member("other0.png").tolist() == [bool(number % 2 and number % 3 != 1) for number in range(10)]
    assert not pictures.with_member("cache.safetensors").any()


def test_every_part_of_a_sample_reads_back_as_written(tmp_path, face, store_set):
    random = np.random.default_rng(1)
    picture, mask = random.integers(0, 255, (48, 64, 3), np.uint8), random.integers(0, 3, (48, 64), np.uint8)
    crops, others = (random.integers(0, 255, (2, 224, 224, 3), np.uint8) for _ in range(2))
    record = PictureRecord("c", (face(1, 2, 30, 40), face(3, 4, 20, 30)), "s")
    stored = make_sample("one", picture, record, crops, others, mask)
    cache = CacheInfo(((64, 48),), "v", None)
    pictures = open_dataset(store_set(tmp_path / "set", [stored], cache, prepared={"how": 1}))
    sample = pictures.sample(0)
    assert (pictures.prepared, pictures.cache) == ({"how": 1}, CacheInfo(((64, 48),), "v", None))
    assert sample.record == record
    for found, expected in (
        (sample.picture(), picture),
        (sample.labels(), mask),
        (np.stack([sample.crop(0), sample.crop(1)]), crops),
        (np.stack([sample.other_crop(0), sample.other_crop(1)]), others),
    ):
        np.testing.assert_array_equal(found, expected)


def test_webdataset_reads_our_shards(mixed):
    webdataset = pytest.importorskip("webdataset")
    ours = open_dataset(mixed)
    urls = [str(tar) for tar in sorted(mixed.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ours.keys
    for number, sample in enumerate(found):
        assert json.loads(sample["json"])["caption"] == f"caption {number}"
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(sample["png"]))), ours.sample(number).picture())
        assert {name for name in sample if not name.startswith("__")} == set(ours.members(number))


def test_shards_of_webdatasets_own_writer_are_indexed_once(mixed, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    ours = open_dataset(mixed)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with webdataset.ShardWriter(str(theirs / "a-%03d.tar"), maxcount=6, verbose=0) as writer:
        for number in range(len(ours)):
            files = {name: ours.read(number, name, span) for name, span in ours.members(number).items()}
            writer.write({"__key__": ours.keys[number], **files})
    opened = open_dataset(theirs)
    assert contents(opened) == contents(ours)
    before = (theirs / INDEX_FILE).stat().st_mtime_ns
    assert contents(open_dataset(theirs)) == contents(ours)
    assert (theirs / INDEX_FILE).stat().st_mtime_ns == before


def test_a_plain_folder_holds_the_same_samples(mixed, tmp_path):
    plain = unpacked(mixed, tmp_path / "plain")
    assert contents(open_dataset(plain)) == contents(open_dataset(mixed))
    assert not (plain / INDEX_FILE).exists()


def test_crops_are_cut_from_the_picture_where_none_is_stored(mixed, tmp_path):
    plain = unpacked(mixed, tmp_path / "plain")
    for crop in plain.glob("*.face*.png"):
        crop.unlink()
    assert contents(open_dataset(plain)) == contents(open_dataset(mixed))


def test_a_shard_added_later_is_found(mixed, face):
    picture = np.zeros((32, 32, 3), np.uint8)
    write_shard(mixed / "more.tar", [make_sample("extra", picture, PictureRecord("c", (face(2, 2, 20, 20),)))])
    assert open_dataset(mixed).keys[0] == "extra"
    assert len(open_dataset(mixed)) == 11


def test_equal_samples_give_equal_bytes(mixed, tmp_path):
    pictures = open_dataset(mixed)
    samples = [pictures.sample(number).stored() for number in range(4)]
    write_shard(tmp_path / "again.tar", samples)
    assert (tmp_path / "again.tar").read_bytes() == (mixed / "shard-000000.tar").read_bytes()


def _digest(pictures, queue):
    queue.put(contents(pictures))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(mixed, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    pictures = open_dataset(mixed)
    expected = contents(pictures)  # opens the files before the fork
    if method == "spawn":
        assert contents(copy.deepcopy(pictures)) == expected
        return
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_digest, args=(pictures, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=30) for _ in processes] == [expected, expected]
    for process in processes:
        process.join()


def test_more_shards_than_open_files(tmp_path):
    paths = [tmp_path / str(number) for number in range(300)]
    for number, path in enumerate(paths):
        path.write_bytes(f"shard {number:03d}".encode())
    reader = ShardReader(paths)
    before = len(os.listdir("/proc/self/fd"))
    for number in [*range(300), 0, 299]:
        assert reader.read(number, 6, 3) == f"{number:03d}".encode()
    assert len(os.listdir("/proc/self/fd")) - before <= 128
    del reader
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("key", ["a.b", "a b", "ä", "", "/a", "x" * 81])
def test_keys_that_tools_would_split_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="the key"):
        write_shard(tmp_path / "a.tar", [make_sample(key, np.zeros((8, 8, 3), np.uint8), PictureRecord("c", ()))])
    assert list(tmp_path.iterdir()) == []


def _cut_short(folder):
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-20000])


def _no_tar(folder):
    (folder / "shard-000001.tar").write_bytes(b"hello" * 500)


def _missing(folder):
    (folder / "shard-000001.tar").unlink()


def _twice(folder):
    shutil.copy(folder / "shard-000001.tar", folder / "copy.tar")


def _no_record(folder):
    with tarfile.open(folder / "new.tar", "w") as archive:
        archive.add(folder / INDEX_FILE, "new.png")


def _no_picture(folder):
    (folder / "new.json").write_bytes(PictureRecord("c", ()).to_json())
    with tarfile.open(folder / "new.tar", "w") as archive:
        archive.add(folder / "new.json", "new.json")


def _apart(folder):
    with tarfile.open(folder / "new.tar", "w") as archive:
        for name in ("a.png", "b.png", "a.json"):
            archive.add(folder / INDEX_FILE, name)


def _index_damaged(folder):
    (folder / INDEX_FILE).write_text('{"format": "likeness')


def _index_foreign(folder):
    (folder / INDEX_FILE).write_text('{"format": "other", "version": 3}')


def _unfinished(folder):
    (folder / "unfinished").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_short, "shard-000001.tar is (damaged|cut short)"),
        (_no_tar, "shard-000001.tar is damaged or no plain"),
        (_missing, "lists the shard shard-000001.tar, which is missing"),
        (_twice, "the key s0004 occurs in copy.tar and again in shard-000001.tar"),
        (_no_record, "new.tar: new.json is missing"),
        (_no_picture, "new.tar: new: expected one picture .* found none"),
        (_apart, "new.tar: the files of the sample a do not stand together"),
        (_index_damaged, "dataset.json is damaged .* delete it"),
        (_index_foreign, "is of the format"),
        (_unfinished, "is not complete"),
    ],
)
def test_damaged_sets_are_refused_by_name(mixed, damage, message):
    damage(mixed)
    with pytest.raises(ValueError, match=message):
        open_dataset(mixed)


def test_damaged_samples_are_named_when_they_are_read(mixed, tmp_path):
    plain = unpacked(mixed, tmp_path / "plain")
    (plain / "s0000.png").write_bytes((plain / "s0000.png").read_bytes()[:600])
    (plain / "s0001.mask.png").write_bytes(b"no mask")
    Image.new("RGB", (64, 64)).save(plain / "s0002.face0.png")
    pictures = open_dataset(plain)
    with pytest.raises(ValueError, match=r"s0000.png: the picture is damaged"):
        pictures.sample(0).picture()
    with pytest.raises(ValueError, match=r"s0001.mask.png: the mask is damaged"):
        pictures.sample(1).labels()
    with pytest.raises(ValueError, match=r"s0002.face0.png must be an aligned crop"):
        pictures.sample(2).crop(0)
    with pytest.raises(ValueError, match=r"s0003.cache.safetensors is missing"):
        pictures.sample(3).cached()
    (plain / "s0004.json").write_text("{}")
    with pytest.raises(ValueError, match=r"s0004.json: the field `faces`"):
        _ = pictures.sample(4).record


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing are no folder"):
        open_dataset(tmp_path / "nothing")
