"""`--dry-run` shows and checks everything, and trains nothing."""

from __future__ import annotations

import re

import pytest
import yaml


@pytest.mark.parametrize("stage", [1, 2])
def test_dry_run_shows_settings_parts_and_estimates(runs, capsys, stage):
    assert runs.run("run", stage, "--dry-run", steps=1000, seed=7) == 0
    output = capsys.readouterr().out
    settings = yaml.safe_load(output[: output.index("pictures: ")])
    assert (settings["seed"], settings["optimiser"]["weight_decay"]) == (7, 0.01)
    parts = {1: {"resampler", "projections", "lora_single"}, 2: {"routers", "lora_multi"}}[stage]
    assert set(re.findall(r"trained: (\w+) +[\d,]+ parameters", output)) == parts
    assert "4 pictures a step = 4 at once x 1 process x 1 pass\n" in output
    assert re.search(r"memory: activations \d+ MiB", output)
    assert re.search(r"memory: \d+ MiB in all on each device", output)
    assert re.search(r"time: [\d.]+ s for a step on cpu, .* for 1000 steps", output)
    assert not (runs.folder / "run").exists()


def test_activations_follow_the_batch_and_shrink_when_recomputed(runs, capsys):
    def activations(**settings):
        assert runs.run("run", 1, "--dry-run", data__resolution=64, **settings) == 0
        return int(re.search(r"memory: activations (\d+) MiB", capsys.readouterr().out)[1])

    plain = activations(batch__global_size=16, batch__per_device=16)
    assert activations(batch__global_size=16, batch__per_device=8) == pytest.approx(plain / 2, abs=1)
    assert activations(batch__global_size=16, batch__per_device=16, model__gradient_checkpointing=True) < plain * 0.6


def test_missing_files_are_all_named_after_the_settings(runs, capsys):
    assert runs.run("run", 1, "--dry-run", base__model="absent.safetensors", data__path="nowhere") == 2
    captured = capsys.readouterr()
    assert "- base.model: absent.safetensors" in captured.err
    assert "- data.path: nowhere" in captured.err
    assert yaml.safe_load(captured.out)["steps"] == 6
