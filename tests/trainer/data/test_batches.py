from __future__ import annotations

import itertools
import logging
from dataclasses import fields

import numpy as np
import pytest
import torch
from likeness.trainer.batch import FaceFeatures
from likeness.trainer.data.batches import BatchLoader, TrainingBatches
from likeness.trainer.data.cache_file import encode_cache
from likeness.trainer.data.cropping import crop_window
from likeness.trainer.data.index import CacheInfo
from likeness.trainer.data.picture_set import open_dataset
from likeness.trainer.data.settings import DataSettings
from pydantic import ValidationError

PAIR = ((4, 8, 40, 56), (70, 10, 100, 50))
TRIO = (*PAIR, (44, 20, 64, 40))


def tensors_of(batch):
    """All of a batch by name, in comparable form."""
    found = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, FaceFeatures):
            found |= {"intrinsic": value.intrinsic, "structure": value.structure}
        else:
            found[field.name] = value
    return {
        name: (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
        for name, value in found.items()
    }


def take(batches, count):
    return [tensors_of(batch) for batch in itertools.islice(batches, count)]


def cache_of(number, num_faces=1, num_others=0):
    random = np.random.default_rng(number)
    tensors = {"latent_mean": random.normal(size=(4, 8, 8)), "latent_logvar": random.normal(size=(4, 8, 8))}
    for face in range(num_faces):
        tensors[f"face{face}.intrinsic"] = random.normal(size=(49, 6))
        tensors[f"face{face}.structure"] = random.normal(size=(256, 5))
    return tensors | {f"other{other}.intrinsic": random.normal(size=(49, 6)) for other in range(num_others)}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory, write_set, drawn):
    """30 pictures of one person, two of three with other photographs."""
    samples = [drawn(person="p", num_others=number % 3) for number in range(30)]
    return open_dataset(write_set(tmp_path_factory.mktemp("portraits") / "set", samples, per_shard=8))


@pytest.fixture(scope="module")
def groups(tmp_path_factory, write_set, drawn):
    """24 wide pictures of two or three people with masks, and 8 square ones of one."""
    samples = [drawn((128, 64), TRIO if number % 2 else PAIR, mask=True) for number in range(24)]
    return open_dataset(write_set(tmp_path_factory.mktemp("groups") / "set", samples + [drawn()] * 8))


@pytest.fixture(scope="module")
def cached(tmp_path_factory, write_set, drawn):
    """12 pictures with latents of 64 px pictures and features."""
    samples = [drawn(num_others=2, cache=encode_cache(cache_of(number, 1, 2))) for number in range(12)]
    info = CacheInfo(((64, 64),), "vae", "faces")
    return open_dataset(write_set(tmp_path_factory.mktemp("cached") / "set", samples, cache=info))


def settings(pictures, **changes):
    return DataSettings(path=pictures.path, **{"resolution": 64, "workers": 0, **changes})


@pytest.fixture
def wide(groups):
    return settings(groups, resolution=[[128, 64], [64, 64]], faces=[2, 6])


def test_a_batch_of_portraits(portraits):
    batch = BatchLoader(portraits, settings(portraits), 0).load([3, 1], [70, 71], 1)
    assert len(batch) == 2 and batch.keys == ("s0003", "s0001") and batch.captions == ("caption 3", "caption 1")
    assert batch.positions.tolist() == [70, 71] and batch.valid.tolist() == [[True], [True]]
    assert batch.pixels.shape == (2, 3, 64, 64) and batch.pixels.dtype == torch.float32
    assert batch.crops.shape == (2, 1, 224, 224, 3) and batch.crops.dtype == torch.uint8
    assert batch.latents is None and batch.features is None
    sample = portraits.sample(3)
    expected = torch.from_numpy(sample.picture()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(batch.pixels[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(batch.crops[0, 0], sample.crop(0))
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 20:44] = True
    assert batch.masks.dtype == torch.bool and torch.equal(batch.masks[0, 0], mask)
    assert batch.has_other.tolist() == [False, True] and not batch.other_crops[0].any()
    np.testing.assert_array_equal(batch.other_crops[1], portraits.sample(1).other_crop(0))


def test_the_other_photo_varies_with_the_position_alone(portraits):
    loader = BatchLoader(portraits, settings(portraits), 0)
    numbers = [2] * 20
    crops = loader.load(numbers, range(20), 1).other_crops
    choices = [torch.equal(crop, crops[0]) for crop in crops]
    assert 2 <= sum(choices) <= 18
    again = loader.load(numbers, range(20), 1).other_crops
    assert torch.equal(crops, again)


def test_faces_are_padded_to_the_most_of_the_step(groups, wide):
    batches = TrainingBatches(groups, wide, batch_size=6, seed=0)
    for batch in itertools.islice(batches, 8):
        own = [groups.num_faces[groups.keys.index(key)] for key in batch.keys]
        assert batch.valid.sum(1).tolist() == own
        assert batch.valid.shape[1] == batch.masks.shape[1] == batch.crops.shape[1] == max(own)
        assert batch.pixels.shape == (6, 3, 64, 128)
        assert not batch.masks[~batch.valid].any() and not batch.crops[~batch.valid].any()
        assert batch.masks[batch.valid].flatten(1).any(1).all()
        assert batch.has_other is None and batch.other_crops is None


def test_processes_padded_alike_in_spite_of_different_faces(groups, wide):
    ranks = [iter(TrainingBatches(groups, wide, batch_size=1, seed=0, rank=rank, world=4)) for rank in range(4)]
    for _ in range(6):
        assert len({next(rank).valid.shape for rank in ranks}) == 1


def test_batches_of_equally_many_faces_need_no_padding(groups, wide):
    by_faces = wide.model_copy(update={"bucket_by_faces": True})
    batches = list(itertools.islice(TrainingBatches(groups, by_faces, batch_size=4, seed=0), 12))
    assert all(batch.valid.all() for batch in batches)
    assert {batch.valid.shape[1] for batch in batches} == {2, 3}


def test_true_masks_replace_boxes(groups, wide):
    true = wide.model_copy(update={"mask": "true"})
    batch = BatchLoader(groups, true, 0).load([1], [0], 3)
    labels = groups.sample(1).labels()
    for face in range(3):
        np.testing.assert_array_equal(batch.masks[0, face], labels == face + 1)
    boxes = BatchLoader(groups, wide, 0).load([1], [0], 3).masks
    assert (boxes & ~batch.masks).any() and not (batch.masks & ~boxes).any()


def test_a_cut_picture_takes_its_faces_along(groups):
    square = settings(groups, resolution=64, faces=[1, 3], cut_faces="use")
    batch = BatchLoader(groups, square, 0).load([1], [0], 3)
    window = crop_window((128, 64), TRIO, (64, 64))
    assert window.kept == (0, 2) and batch.valid.tolist() == [[True, True, False]]
    sample = groups.sample(1)
    np.testing.assert_array_equal(batch.crops[0, 1], sample.crop(2))
    left, top, right, bottom = window.cut_boxes([TRIO[2]])[0].astype(int).tolist()
    rows, columns = batch.masks[0, 1].nonzero().T
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
    assert np.abs((batch.pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5 - sample.picture()[:, 4:68]).max() < 1e-3


def test_pictures_that_lose_faces_are_left_out_or_used(groups, caplog):
    with caplog.at_level(logging.WARNING, "likeness.trainer"):
        kept = TrainingBatches(groups, settings(groups, faces=[1, 3]), batch_size=2, seed=0)
    assert kept.num_pictures == 8 and "24 pictures are left out" in caplog.text
    used = TrainingBatches(groups, settings(groups, faces=[1, 3], cut_faces="use"), batch_size=2, seed=0)
    assert used.num_pictures == 32


def test_cached_tensors_come_in_place_of_pictures(cached):
    batch = BatchLoader(cached, settings(cached), 0).load([5, 2], [0, 1], 1)
    assert batch.pixels is None and batch.crops is None and batch.other_crops is None
    expected = cache_of(5, 1, 2)
    for found, name in (
        (batch.latents[0, 0], "latent_mean"),
        (batch.latents[0, 1], "latent_logvar"),
        (batch.features.intrinsic[0, 0], "face0.intrinsic"),
        (batch.features.structure[0, 0], "face0.structure"),
    ):
        np.testing.assert_array_equal(found, expected[name].astype(np.float16))
    assert batch.has_other.tolist() == [True, True] and batch.other_intrinsic.shape == (2, 49, 6)
    assert any(np.array_equal(batch.other_intrinsic[0], expected[f"other{j}.intrinsic"].astype("f2")) for j in (0, 1))


def test_a_cache_is_used_only_as_far_as_asked_and_valid(cached, caplog):
    loader = BatchLoader(cached, settings(cached, use_cached_features=False), 0)
    assert (loader.gives_latents, loader.gives_features) == (True, False)
    assert loader.load([0], [0], 1).crops is not None
    with caplog.at_level(logging.WARNING, "likeness.trainer"):
        other_size = BatchLoader(cached, settings(cached, resolution=32), 0)
    assert (other_size.gives_latents, other_size.gives_features) == (False, True)
    assert "cached latents are not used" in caplog.text
    batch = other_size.load([0], [0], 1)
    assert batch.pixels.shape == (1, 3, 32, 32) and batch.features is not None


def test_a_damaged_or_incomplete_cache_is_named(tmp_path, write_set, drawn):
    partial = encode_cache({key: value for key, value in cache_of(0).items() if key != "face0.structure"})
    info = CacheInfo(((64, 64),), "v", "f")
    folder = write_set(tmp_path / "set", [drawn(cache=partial), drawn(cache=b"junk"), drawn()], cache=info)
    pictures = open_dataset(folder)
    loader = BatchLoader(pictures, settings(pictures), 0)
    for number, message in enumerate(["lacks 'face0.structure'", "cached tensors are damaged", "is missing"]):
        with pytest.raises(ValueError, match=f"s000{number}.cache.safetensors.*{message}"):
            loader.load([number], [0], 1)


@pytest.mark.parametrize("start", [1, 5, 17])
def test_a_restart_at_any_step_goes_on_exactly(portraits, start):
    unbroken = take(TrainingBatches(portraits, settings(portraits), batch_size=2, accumulation=2, seed=9), 2 * 18)
    resumed = TrainingBatches(portraits, settings(portraits), batch_size=2, accumulation=2, seed=9, start_step=start)
    assert take(resumed, 2 * (18 - start)) == unbroken[2 * start :]


def test_the_number_of_workers_changes_nothing(portraits):
    none = take(TrainingBatches(portraits, settings(portraits), batch_size=3, seed=4), 8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    two = take(TrainingBatches(portraits, settings(portraits, workers=2, prefetch=1), batch_size=3, seed=4), 8)
    assert two == none
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_and_accumulation_share_the_same_samples(portraits):
    """One process with batches of 4, two with 2 + 2, and one that accumulates 2 x 2 see the same."""

    def rows(batches):
        return [
            (int(position), key, pixels.numpy().tobytes())
            for batch in batches
            for position, key, pixels in zip(batch.positions, batch.keys, batch.pixels, strict=True)
        ]

    def made(steps, **shape):
        return list(itertools.islice(TrainingBatches(portraits, settings(portraits), seed=2, **shape), steps))

    one = rows(made(5, batch_size=4))
    assert [row[0] for row in one] == list(range(20))
    two = [made(5, batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    assert rows(itertools.chain(*zip(*two, strict=True))) == one
    assert rows(made(10, batch_size=2, accumulation=2)) == one
    four = [made(10, batch_size=1, accumulation=2, rank=rank, world=2) for rank in (0, 1)]
    in_order = [batch for step in range(5) for rank in four for batch in rank[2 * step : 2 * step + 2]]
    assert rows(in_order) == one


def test_the_size_of_an_epoch(groups, wide):
    batches = TrainingBatches(groups, wide, batch_size=5, seed=0, accumulation=2)
    assert (batches.global_batch, batches.steps_per_epoch, batches.num_pictures) == (10, 2, 24)


def test_sizes_too_rare_for_a_batch_are_left_out_with_a_word(groups, caplog):
    both = settings(groups, resolution=[[64, 64], [128, 64]], faces=[1, 6])
    with caplog.at_level(logging.WARNING, "likeness.trainer"):
        batches = TrainingBatches(groups, both, batch_size=10, seed=0)
    assert "too rare to fill a batch of 10 are left out: 8 of 64 x 64" in caplog.text
    assert {tuple(batch.pixels.shape[2:]) for batch in itertools.islice(batches, 4)} == {(64, 128)}


def test_sets_that_cannot_be_trained_on_are_refused(portraits, groups, tmp_path, write_set):
    with pytest.raises(ValueError, match=r"no picture of .* can be used with `faces` 2 to 6: .* 30 with 1"):
        TrainingBatches(portraits, settings(portraits, faces=[2, 6]), batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"`faces` 2: .* 8 with 1, 12 with 2, 12 with 3; 12 lose faces when cut"):
        TrainingBatches(groups, settings(groups, faces=[2, 2]), batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"too few pictures: a step takes 32 .* there are 30 of 64 x 64"):
        TrainingBatches(portraits, settings(portraits), batch_size=8, accumulation=2, world=2, seed=0)
    with pytest.raises(ValueError, match=r"`mask` is \"true\", but 30 pictures of .* such as s0000"):
        TrainingBatches(portraits, settings(portraits, mask="true"), batch_size=2, seed=0)
    empty = open_dataset(_empty(write_set, tmp_path))
    with pytest.raises(ValueError, match="holds no pictures"):
        TrainingBatches(empty, settings(empty), batch_size=2, seed=0)


def _empty(write_set, tmp_path):
    folder = write_set(tmp_path / "empty", [])
    (folder / "shard-000000.tar").write_bytes(b"\0" * 10240)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 60}, "multiples of 8 pixels, got 60 x 60"),
        ({"resolution": [[64, 64], [64, 64]]}, "lists a size twice"),
        ({"resolution": []}, "not empty"),
        ({"faces": [3, 2]}, "1 <= fewest <= most"),
        ({"resolutoin": 64}, "Extra inputs are not permitted"),
        ({"mask": "boxes"}, "'box' or 'true'"),
    ],
)
def test_settings_are_checked(tmp_path, changes, message):
    with pytest.raises(ValidationError, match=message):
        DataSettings(path=tmp_path, **changes)


def test_every_setting_is_described():
    assert all(field.description for field in DataSettings.model_fields.values())
