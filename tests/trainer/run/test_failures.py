"""What goes wrong ends in a sentence that helps, with the last good state on disk."""

from __future__ import annotations

import logging
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

posix_only = pytest.mark.skipif(sys.platform != "linux", reason="process limits are Linux's")


def one_error(capsys):
    """The error that was shown: a single one, without a traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("error: ") == 1, text
    return text[text.index("error: ") :]


@pytest.fixture
def cached_set(runs, tiny_world, tmp_path):
    """The portraits with cached latents and features, made by the command."""
    from likeness.trainer.__main__ import main

    target = tmp_path / "cached"
    arguments = ["--base-model", tiny_world.base, "--backbone", tiny_world.backbone]
    arguments += ["--clip-vision", tiny_world.clip_vision, "--resolution", "64"]
    assert main(["cache", str(tiny_world.portraits), "--out", str(target), *map(str, arguments)]) == 0
    return target


def with_one_sample_spoilt(source, target, store_set):
    """A copy of a cached set in which one picture's latent is no number."""
    from likeness.trainer.data.cache_file import LATENT_MEAN, encode_cache
    from likeness.trainer.data.picture_set import open_dataset

    pictures = open_dataset(source)
    stored = []
    for number in range(len(pictures)):
        sample = pictures.sample(number)
        tensors = dict(sample.cached())
        if sample.key == "picture005":
            tensors[LATENT_MEAN] = np.full_like(tensors[LATENT_MEAN], np.nan)
        stored.append(sample.stored(encode_cache(tensors)))
    return store_set(target, stored, pictures.cache)


def test_loss_that_is_no_number_names_the_sample_and_keeps_the_state(runs, cached_set, store_set, tmp_path, capsys):
    spoilt = with_one_sample_spoilt(cached_set, tmp_path / "spoilt", store_set)
    assert runs.run("run", data__path=spoilt, steps=50, checkpoints__every=100) == 2
    error = one_error(capsys)
    found = re.search(r"the loss of step (\d+) is nan. It comes from sample picture005 at timestep \d+\.", error)
    assert found, error
    done = int(found[1]) - 1
    assert list(runs.losses("run")) == list(range(1, done + 1))
    if done:
        assert runs.checkpoints("run") == [f"step-{done:08d}"]
        assert f"those before it are saved in {runs.folder / 'run' / 'checkpoints'}" in error


def test_exploding_run_stops_and_keeps_its_last_state(runs, capsys):
    assert runs.run("run", optimiser__learning_rate=1e30, optimiser__warmup_steps=0, steps=50) == 2
    error = one_error(capsys)
    assert re.search(r"the (loss|gradient) of step \d+ is ", error)
    assert "lower optimiser.learning_rate" in error
    assert runs.checkpoints("run")


def test_cache_of_other_networks_is_refused(runs, cached_set, tiny_world, tmp_path, capsys):
    from safetensors.torch import load_file

    other = tmp_path / "other.safetensors"
    save_file(
        {
            key: value * 1.5 if value.is_floating_point() else value
            for key, value in load_file(tiny_world.backbone).items()
        },
        other,
    )
    assert runs.run("run", data__path=cached_set, base__backbone=other) == 2
    assert "the cached features" in (error := one_error(capsys)) and "another face backbone" in error
    assert "data.use_cached_features: false" in error


def data_limit(spare):
    """Let this process have `spare` more bytes of memory than it has now."""
    import ctypes
    import resource

    # A forked process has the heap that earlier tests freed. Large blocks shall come from new memory, which is counted.
    mmap_threshold = -3
    assert ctypes.CDLL(None).mallopt(mmap_threshold, 128 * 1024)
    with open("/proc/self/status") as status:
        used = int(re.search(r"VmData:\s+(\d+) kB", status.read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + spare, used + spare))


def file_limit():
    """Make writes of more than 60 KB to one file fail, as on a disk that is full."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


@posix_only
def test_out_of_memory_says_which_settings_to_lower(runs, start, write_pictures):
    big = {"data__path": write_pictures([1] * 32, 256), "data__resolution": 256, "batch__global_size": 32}
    process = start(runs.arguments("run", **big, batch__per_device=32), before=lambda: data_limit(300 * 2**20))
    assert process.wait() == 2, process.text()
    text = process.text()
    assert "Traceback" not in text
    assert "error: out of memory" in text
    assert "- batch.per_device: 32 -> 16" in text
    assert "- model.gradient_checkpointing: false -> true" in text
    assert "- precision: no -> bf16" in text
    assert "- data.resolution: 256" in text


@posix_only
@pytest.mark.parametrize("setting", ["stop", "continue"])
def test_full_disk_keeps_the_last_good_checkpoint(runs, start, setting):
    settings = {"checkpoints__when_disk_full": setting}
    assert runs.run("run", steps=2, **settings) == 0
    process = start(runs.arguments("run", steps=6, **settings), before=file_limit)
    assert process.wait() == 2, process.text()
    text = process.text()
    assert "the checkpoint of step 3 could not be written: no space left" in text
    assert (
        "The last whole checkpoint is that of step 2" in text or "the last whole checkpoint is that of step 2" in text
    )
    # Step 3 ends the run or not; the last one, step 6, cannot be made up for later and is an error in any case.
    assert len(runs.losses("run")) == (3 if setting == "stop" else 6)
    assert runs.checkpoints("run") == ["step-00000002"]
    assert runs.run("run", steps=6, **settings) == 0
    assert "step-00000006" in runs.checkpoints("run")


def test_sdxl_checkpoint_is_refused_by_name(runs, tmp_path, capsys):
    path = tmp_path / "sdxl.safetensors"
    keys = {
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        "conditioner.embedders.1.model.ln_final.weight": (1280,),
    }
    save_file({key: torch.zeros(shape) for key, shape in keys.items()}, path)
    assert runs.run("run", base__model=path) == 2
    assert re.search(r"sdxl.safetensors.*SDXL", one_error(capsys))


@pytest.mark.parametrize("case", ["no faces", "one picture", "empty folder", "a file", "too many faces"])
def test_pictures_that_cannot_be_trained_on(runs, tmp_path, write_pictures, capsys, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no folder")
    path = {
        "no faces": lambda: write_pictures([0] * 6),
        "one picture": lambda: write_pictures([1]),
        "empty folder": lambda: tmp_path / "empty",
        "a file": lambda: tmp_path / "file.txt",
        "too many faces": lambda: write_pictures([3] * 6),
    }[case]()
    assert runs.run("run", data__path=path) == 2
    error = one_error(capsys)
    assert len(error) > 40
    logging.getLogger("likeness.test").info("%s: %s", case, error)


def test_damaged_picture_is_named(runs, tiny_world, tmp_path, capsys):
    folder = tmp_path / "plain"
    from likeness.trainer.data.picture_set import open_dataset

    pictures = open_dataset(tiny_world.portraits)
    folder.mkdir()
    for number in range(4):
        stored = pictures.sample(number).stored()
        for name, content in stored.files().items():
            (folder / f"{stored.key}.{name}").write_bytes(content)
    bad = next(folder.glob("picture002.png"))
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    assert runs.run("run", data__path=folder) == 2
    assert "picture002" in one_error(capsys)


def test_pictures_without_captions_are_told_by_prepare(tmp_path, capsys):
    import skimage.data
    from likeness.trainer.__main__ import main

    (tmp_path / "photos").mkdir()
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photos" / "a.png")
    code = main(["prepare", str(tmp_path / "photos"), "--out", str(tmp_path / "set"), "--workers", "1"])
    captured = capsys.readouterr()
    assert code == 2, captured
    assert "Traceback" not in captured.err
    assert "caption" in captured.err


def test_batch_that_does_not_divide(runs, capsys):
    assert runs.run("run", batch__per_device=3) == 2
    assert "batch.per_device=2 fits" in one_error(capsys)
    assert runs.run("run", batch__per_device=2, batch__accumulation=3) == 2
    assert "leave out batch.accumulation" in one_error(capsys)


def test_stage_two_needs_stage_one(runs, tmp_path, tiny_world, capsys):
    assert runs.run("run", 2, base__stage_one="null") == 2
    assert "stage II starts from stage I's result" in one_error(capsys)
    assert runs.run("run", 2, base__stage_one=tiny_world.backbone) == 2
    assert "backbone.safetensors" in one_error(capsys)
    assert runs.run("run", 2, base__stage_one=tmp_path) == 2
    assert "base.stage_one is" in one_error(capsys)


def test_fp16_on_the_cpu_is_refused(runs, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert runs.run("run", precision="fp16") == 2
    assert "needs a GPU" in one_error(capsys)


def test_debug_shows_where_an_error_came_from(runs):
    with pytest.raises(ValueError, match=os.path.basename("absent")):
        runs.run("run", 1, "--debug", data__path="absent")
