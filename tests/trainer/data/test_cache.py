from __future__ import annotations

import argparse
import itertools
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.trainer.batch import FaceFeatures
from likeness.trainer.data import cache
from likeness.trainer.data.batches import BatchLoader
from likeness.trainer.data.caching import CacheSettings, make_cache
from likeness.trainer.data.index import CacheInfo
from likeness.trainer.data.picture_set import open_dataset
from likeness.trainer.data.settings import DataSettings

SIZES = ((64, 64), (128, 64))


class Latents:
    """A stand-in for a VAE: each cell is the mean of its 8 x 8 pixels, the variance a function of the mean."""

    fingerprint = "latents 1"

    def __init__(self):
        self.batches = []

    def __call__(self, pixels):
        assert pixels.dtype == torch.float32 and pixels.min() >= -1 and pixels.max() <= 1
        self.batches.append(tuple(pixels.shape))
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return mean, mean * 2 - 1


class Features:
    """A stand-in for face encoders."""

    fingerprint = "features 1"
    scale = 1.0

    def features(self, crops):
        assert crops.dtype == torch.uint8 and crops.shape[1:] == (224, 224, 3)
        rows = crops.float().div(255).reshape(len(crops), -1) * self.scale
        return FaceFeatures(rows[:, : 49 * 6].reshape(-1, 49, 6), rows[:, : 256 * 5].reshape(-1, 256, 5))


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_set, drawn):
    """Seven samples: portraits with other photographs, and wide pictures of two with masks."""
    two = ((4, 8, 40, 60), (70, 10, 100, 50))
    samples = [drawn((150, 70), two, mask=True) if number % 3 == 1 else drawn(num_others=2) for number in range(7)]
    return write_set(tmp_path_factory.mktemp("source") / "set", samples)


@pytest.fixture
def settings(source, tmp_path):
    return CacheSettings(source, tmp_path / "cached", SIZES, batch_size=2, samples_per_shard=3)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_cached_set_is_the_source_with_tensors_beside(source, settings):
    latents = Latents()
    assert make_cache(settings, latents, Features()) == 7
    assert set(latents.batches) == {(2, 3, 64, 64), (1, 3, 64, 64), (1, 3, 64, 128)}
    before, after = open_dataset(source), open_dataset(settings.out)
    assert after.cache == CacheInfo(SIZES, "latents 1", "features 1")
    assert after.keys == before.keys
    assert after.prepared["source prepared"] == {"by": "test"}
    for number in range(7):
        old, new = before.sample(number), after.sample(number)
        assert set(new.members) - set(old.members) == {"cache.safetensors"}
        assert all(new.read(name) == old.read(name) for name in old.members)
        faces, others = len(old.record.faces), old.num_others
        expected = {"latent_mean", "latent_logvar", *(f"other{j}.intrinsic" for j in range(others))}
        expected |= {f"face{k}.{kind}" for k in range(faces) for kind in ("intrinsic", "structure")}
        assert set(new.cached()) == expected
        assert all(tensor.dtype == np.float16 for tensor in new.cached().values())


def test_batches_from_the_cache_are_what_the_encoders_give_for_batches_without(source, settings):
    make_cache(settings, Latents(), Features())
    data = {"resolution": SIZES, "faces": (1, 2), "workers": 0}
    plain = BatchLoader(open_dataset(source), DataSettings(path=source, **data), 0)
    cached = BatchLoader(open_dataset(settings.out), DataSettings(path=settings.out, **data), 0)
    for numbers in ([0, 3, 6], [1, 4]):
        raw, ready = plain.load(numbers, range(len(numbers)), 2), cached.load(numbers, range(len(numbers)), 2)
        mean, logvar = Latents()(raw.pixels)
        torch.testing.assert_close(ready.latents.float(), torch.stack([mean, logvar], 1), rtol=0, atol=2e-3)
        assert torch.equal(raw.valid, ready.valid) and torch.equal(raw.masks, ready.masks)
        for row, face in itertools.product(range(len(numbers)), range(2)):
            if raw.valid[row, face]:
                expected = Features().features(raw.crops[row, face][None])
                torch.testing.assert_close(ready.features.intrinsic[row, face], expected.intrinsic[0].half())
                torch.testing.assert_close(ready.features.structure[row, face], expected.structure[0].half())
        assert raw.has_other.tolist() == ready.has_other.tolist()
        for row in raw.has_other.nonzero()[:, 0].tolist():
            expected = Features().features(raw.other_crops[row][None]).intrinsic[0].half()
            torch.testing.assert_close(ready.other_intrinsic[row], expected)


def test_one_kind_can_be_made_after_the_other(settings, tmp_path):
    make_cache(settings, Latents(), Features())
    first, second = tmp_path / "first", tmp_path / "second"
    make_cache(CacheSettings(settings.source, first, SIZES, samples_per_shard=3), Latents(), None)
    assert open_dataset(first).cache == CacheInfo(SIZES, "latents 1", None)
    make_cache(CacheSettings(first, second, ((512, 512),), samples_per_shard=3), None, Features())
    both, whole = open_dataset(second), open_dataset(settings.out)
    assert both.cache == whole.cache
    for number in range(7):
        assert both.sample(number).read("cache.safetensors") == whole.sample(number).read("cache.safetensors")


def test_a_plain_folder_without_crops_can_be_cached(source, settings, tmp_path):
    plain = tmp_path / "plain"
    for tar in source.glob("*.tar"):
        with tarfile.open(tar) as archive:
            archive.extractall(plain, filter="data")
    for crop in plain.glob("*.face*.png"):
        crop.unlink()
    make_cache(CacheSettings(plain, tmp_path / "a", SIZES), Latents(), Features())
    make_cache(CacheSettings(source, tmp_path / "b", SIZES), Latents(), Features())
    assert (tmp_path / "a" / "shard-000000.tar").read_bytes() == (tmp_path / "b" / "shard-000000.tar").read_bytes()


def test_killed_at_any_write_it_goes_on_to_the_same_bytes(settings, tmp_path, forked, killed_at):
    make_cache(settings, Latents(), Features())
    for limit in itertools.count():
        again = replace(settings, out=tmp_path / f"killed{limit}")
        code, _ = forked(killed_at(limit, lambda again=again: make_cache(again, Latents(), Features())))
        make_cache(again, Latents(), Features())
        assert files(again.out) == files(settings.out), limit
        if code == 0:
            break
        assert code == 9
    assert limit == 1 + 2 * 3 + 3 + 1 + 1  # plan, shards and notes, moves, index, end


def test_an_unfinished_cache_of_another_encoder_is_refused(settings):
    make_cache(settings, Latents(), Features())
    other = Latents()
    other.fingerprint = "latents 2"
    with pytest.raises(ValueError, match=r'made otherwise: latents \("latents 1", now "latents 2"\)'):
        make_cache(settings, other, Features())


def test_features_too_large_for_half_precision_are_named(settings):
    large = Features()
    large.scale = 1e6
    with pytest.raises(ValueError, match=r"s0000.face0.intrinsic: the encoder gave values that float16 cannot hold"):
        make_cache(settings, None, large)


def test_the_command_runs_the_real_encoders(source, tmp_path, tiny_base, tiny_backbone, tiny_clip_vision, capsys):
    from likeness.trainer.model.encoders import load_face_encoders
    from likeness.trainer.model.latents import load_latent_encoder

    parser = argparse.ArgumentParser()
    cache.add_parser(parser.add_subparsers())

    def run(*options):
        args = parser.parse_args(["cache", str(source), "--resolution", "64x64,128x64", *map(str, options)])
        return args.run(args)

    encoders = ("--base-model", tiny_base, "--backbone", tiny_backbone, "--clip-vision", tiny_clip_vision)
    assert run("--out", tmp_path / "out", "--device", "cpu", *encoders) == 0
    assert f"{tmp_path / 'out'}: 7 pictures with cached latents and features" in capsys.readouterr().out
    pictures = open_dataset(tmp_path / "out")
    vae = load_latent_encoder(tiny_base, "cpu", torch.float32)
    faces = load_face_encoders(tiny_backbone, tiny_clip_vision, "cpu", torch.float32)
    assert pictures.cache == CacheInfo(SIZES, vae.fingerprint, faces.fingerprint)
    tensors = pictures.sample(1).cached()
    assert tensors["latent_mean"].shape == (4, 8, 16)
    expected = faces.features(torch.from_numpy(pictures.sample(1).crop(1))[None])
    np.testing.assert_allclose(tensors["face1.structure"], expected.structure[0].numpy(), rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="features need --backbone and --clip-vision; or make only latents"):
        run("--out", tmp_path / "x", "--base-model", tiny_base)
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "x", "--resolution", "60")
    assert "'60' is no resolution" in capsys.readouterr().err
