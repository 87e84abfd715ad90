"""A whole run of both stages: what it leaves behind, and that the adapters read it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from likeness.adapters.uniportrait import load_uniportrait, save_faceid
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def two_stages(tiny_world, stage_one_file, tmp_path_factory):
    """Stage I, then stage II from its folder, with pictures on the way."""
    from types import SimpleNamespace

    from likeness.trainer.__main__ import main

    folder = tmp_path_factory.mktemp("two_stages")
    common = {
        "base.model": tiny_world.base,
        "base.clip_vision": tiny_world.clip_vision,
        "base.backbone": tiny_world.backbone,
        "batch.global_size": 4,
        "batch.per_device": 4,
        "steps": 4,
        "optimiser.warmup_steps": 2,
        "checkpoints.every": 2,
        "checkpoints.keep_last": 1,
        "samples.every": 4,
        "samples.count": 3,
        "samples.steps": 2,
        "logging.every": 1,
        "data.workers": 1,
        "model.sizes": "{rank: 2, width: 16, depth: 1, heads: 1, head_width: 16, tokens: 4}",
    }
    stages = {
        1: {"data.path": tiny_world.portraits, "output": folder / "one"},
        2: {"data.path": tiny_world.groups, "output": folder / "two", "base.stage_one": folder / "one"},
    }
    for stage, own in stages.items():
        sets = [part for key, value in {**common, **own}.items() for part in ("--set", f"{key}={value}")]
        assert main(["train", f"tiny-stage{stage}", *sets]) == 0
    return SimpleNamespace(one=folder / "one", two=folder / "two")


def checkpoint(run):
    (found,) = (run / "checkpoints").iterdir()
    assert found.name == "step-00000004"  # keep_last is 1
    return found


def test_files_of_both_stages_load_as_one_adapter(two_stages):
    faceid = checkpoint(two_stages.one) / "uniportrait-faceid_sd15.safetensors"
    router = checkpoint(two_stages.two) / "uniportrait-router_sd15.safetensors"
    adapter = load_uniportrait(faceid, router)
    assert adapter.sizes.rank == adapter.sizes.multi_rank == 2
    assert adapter.fingerprint
    # What the file says is what was trained, to the bit.
    trained = load_file(checkpoint(two_stages.two) / "trained.safetensors")
    state = adapter.state_dict()
    for key, value in trained.items():
        assert torch.equal(state[key.removeprefix("adapter.")], value), key


def test_only_the_stages_own_parts_are_trained_at_their_own_rates(two_stages):
    parts = {
        run: {key.removeprefix("adapter.").split(".")[0] for key in load_file(checkpoint(run) / "trained.safetensors")}
        for run in (two_stages.one, two_stages.two)
    }
    assert parts == {
        two_stages.one: {"resampler", "projections", "lora_single"},
        two_stages.two: {"routers", "lora_multi"},
    }
    # Adam's first steps move every weight by about the learning rate, so the ratio of the groups' rates shows.
    before = load_uniportrait(
        checkpoint(two_stages.one) / "uniportrait-faceid_sd15.safetensors"
    ).lora_single.state_dict()
    after = load_file(checkpoint(two_stages.two) / "trained.safetensors")
    moved = torch.cat([(after[f"adapter.lora_multi.{key}"] - value).abs().flatten() for key, value in before.items()])
    rate = 1e-3 * 0.1  # learning_rate * lora_factor, over steps of half, full, full, full rate
    assert 0.5 * rate < moved[moved > 0].mean() < 4 * rate


def test_every_step_stands_in_the_log(two_stages):
    rows = [json.loads(line) for line in (two_stages.two / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["learning_rate"] for row in rows] == [5e-4, 1e-3, 1e-3, 1e-3]
    for row in rows:
        assert row["loss"] == pytest.approx(row["diffusion"] + row["routing"], rel=1e-6)
        assert row["routing"] > 0
        assert row["gradient_norm"] > 0
        assert row["peak_memory_mib"] > 0


def test_tensorboard_shows_curves_and_pictures(two_stages):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(two_stages.two / "tensorboard"))
    events.Reload()
    names = {f"train/{name}" for name in ("loss", "diffusion", "routing", "learning_rate", "gradient_norm")}
    names |= {"train/images_per_second", "train/peak_memory_mib", "train/seconds"}
    assert set(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("samples")] == [4]


def test_sample_pictures_show_original_sample_and_routing(two_stages):
    one = np.asarray(Image.open(two_stages.one / "samples" / "step-00000004.png"))
    two = np.asarray(Image.open(two_stages.two / "samples" / "step-00000004.png"))
    # global_size 4 and count 3: the two pictures that divide it
    assert one.shape == (2 * 64, 2 * 64, 3)
    assert two.shape == (2 * 64, 3 * 64, 3)
    assert two[:, 128:].std() > 0


def test_settings_are_saved_with_run_and_checkpoint(two_stages):
    saved = yaml.safe_load((two_stages.one / "config.yaml").read_text())
    assert (saved["steps"], saved["optimiser"]["epsilon"], saved["data"]["path"][0]) == (4, 1e-8, "/")
    assert yaml.safe_load((checkpoint(two_stages.one) / "config.yaml").read_text()) == saved


def test_stage_one_goes_on_from_a_released_file(runs, stage_one_file):
    """With steps of nearly no length what comes out is what went in; new weights would be others."""
    assert runs.run("tuned", base__stage_one=stage_one_file, optimiser__learning_rate=1e-30, steps=3) == 0
    made = runs.folder / "tuned" / "checkpoints" / "step-00000003" / stage_one_file.name
    tuned, start = load_file(made), load_file(stage_one_file)
    torch.testing.assert_close(tuned, start, rtol=0, atol=1e-20)


def test_stage_one_refuses_a_file_of_other_encoders(runs, tiny_world, tmp_path, capsys):
    from likeness.trainer.model.base_model import load_base_model
    from likeness.trainer.model.encoders import FeatureSizes
    from likeness.trainer.model.settings import ModelSettings
    from likeness.trainer.model.weights import new_adapter

    base = load_base_model(tiny_world.base, "cpu", torch.float32)
    sizes = {"rank": 2, "width": 16, "depth": 1, "heads": 1, "head_width": 16, "tokens": 4}
    other = new_adapter(base.unet, FeatureSizes(11, 12, 256, 10), 0, ModelSettings(sizes=sizes))
    save_faceid(tmp_path / "other.safetensors", other)
    assert runs.run("run", base__stage_one=tmp_path / "other.safetensors") == 2
    assert "the adapter takes 11 and 12: it was made for other encoders" in capsys.readouterr().err


def test_files_for_the_nodes_can_be_half_as_large(runs):
    assert runs.run("run", steps=1, checkpoints__file_dtype="float16", optimiser__warmup_steps=0) == 0
    (folder,) = (runs.folder / "run" / "checkpoints").iterdir()
    assert {value.dtype for value in load_file(folder / "uniportrait-faceid_sd15.safetensors").values()} == {
        torch.float16
    }
    assert {value.dtype for value in load_file(folder / "trained.safetensors").values()} == {torch.float32}


def test_half_precision_and_recomputed_activations_train(runs, unbroken):
    settings = {"precision": "bf16", "model__gradient_checkpointing": True, "steps": 2}
    assert runs.run("run", **settings) == 0
    expected = unbroken(1).losses("one")
    assert runs.losses("run") == pytest.approx({step: expected[step] for step in (1, 2)}, rel=0.02)
