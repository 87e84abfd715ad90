"""The ready settings, and what the settings refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from likeness.trainer.config import TrainingConfig, completed, resolved
from likeness.trainer.config_file import READY_CONFIGS, ConfigError, dump, read_config
from likeness.trainer.run.changes import HARMLESS, changes
from likeness.trainer.run.devices import plan_batch

READY = sorted(path.stem for path in READY_CONFIGS.glob("*.yaml"))


def test_there_are_three_ready_configs_for_each_stage():
    worlds = ("tiny", "uniportrait-24gb", "uniportrait-paper")
    assert [f"{world}-stage{stage}" for world in worlds for stage in (1, 2)] == READY


@pytest.mark.parametrize("name", READY)
def test_ready_configs_are_valid_and_say_their_stage(name):
    config = read_config(TrainingConfig, name)
    assert f"stage{config.model.stage}" in name
    assert config.data.faces[1] == 1 if config.model.stage == 1 else config.data.faces[0] >= 2
    assert plan_batch(config, 1).global_size == config.batch.global_size


@pytest.mark.parametrize(("stage", "steps"), [(1, 300_000), (2, 150_000)])
def test_the_papers_numbers(stage, steps):
    config = read_config(TrainingConfig, f"uniportrait-paper-stage{stage}")
    assert plan_batch(config, 8) == plan_batch(config, 8).__class__(128, 16, 8, 1)
    assert (config.steps, config.optimiser.learning_rate, config.optimiser.lora_factor) == (steps, 1e-5, 0.1)
    assert (config.optimiser.warmup_steps, config.optimiser.weight_decay, config.optimiser.clip) == (500, 0.01, 1.0)
    assert config.optimiser.betas == (0.9, 0.999)
    dropping, routing = config.model.dropping, config.model.routing
    assert (dropping.face, dropping.structure_path, dropping.structure_tokens) == (0.05, 0.33, 0.33)
    assert (dropping.other_photo, routing.loss_weight) == (0.1, 0.1)
    assert config.data.faces == ((1, 1) if stage == 1 else (2, 6))
    assert config.data.resolution == 512


def test_24_gb_config_makes_the_same_batch_on_any_number_of_gpus():
    config = read_config(TrainingConfig, "uniportrait-24gb-stage1")
    assert [plan_batch(config, n).accumulation for n in (1, 2, 4, 8)] == [16, 8, 4, 2]
    assert config.precision == "bf16"
    assert config.model.gradient_checkpointing


def test_a_bare_no_is_the_precision_and_not_false(tmp_path):
    assert read_config(TrainingConfig, "uniportrait-24gb-stage1", ["precision=no"]).precision == "no"
    settings = dump(resolved(read_config(TrainingConfig, "uniportrait-24gb-stage1")))
    (tmp_path / "config.yaml").write_text(settings.replace("precision: bf16", "precision: no"))
    assert read_config(TrainingConfig, str(tmp_path / "config.yaml")).precision == "no"


@pytest.mark.parametrize(
    ("word", "value"), [("no", False), ("off", False), ("false", False), ("yes", True), ("on", True)]
)
def test_switches_may_be_said_in_all_words_of_yaml(word, value):
    assert (
        read_config(TrainingConfig, "uniportrait-24gb-stage1", [f"logging.tensorboard={word}"]).logging.tensorboard
        is value
    )


def test_resolved_settings_are_a_settings_file_again(tmp_path):
    config = read_config(TrainingConfig, "uniportrait-paper-stage2")
    (tmp_path / "config.yaml").write_text(dump(resolved(config)))
    again = read_config(TrainingConfig, str(tmp_path / "config.yaml"))
    assert resolved(again) == resolved(config)
    assert again.base.model.is_absolute()
    assert set(yaml.safe_load(dump(resolved(config)))) == set(TrainingConfig.model_fields)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("base.stage_one=null", "stage II starts from stage I's result"),
        ("optimiser.warmup_steps=9999999", "is more than steps"),
        ("optimiser.decay_steps=9999999", "is more than steps"),
        ("batch.per_device=0", "batch.per_device is 0"),
        ("precision=fp8", "precision is 'fp8'.*'no', 'fp16' or 'bf16'"),
        ("system=pulid", "system is 'pulid'"),
        ("data.resolution=100", "multiples of 8"),
        ("batch.size=4", r"there is no setting batch.size; did you mean batch.global_size"),
    ],
)
def test_settings_that_do_not_go_together(override, words):
    with pytest.raises(ConfigError, match=words):
        read_config(TrainingConfig, "uniportrait-paper-stage2", [override])


def test_every_setting_is_either_harmless_or_guarded():
    """Each harmless name exists, and a changed value of any other setting is found."""
    config = resolved(read_config(TrainingConfig, "tiny-stage1"))
    from likeness.trainer.config_file import flatten, known_keys

    assert set(HARMLESS) <= set(known_keys(TrainingConfig))
    flat = flatten(config)
    for key in flat:
        other = read_values(config)
        section = other
        *sections, last = key.split(".")
        for name in sections:
            section = section[name]
        section[last] = "changed"
        harmless = key == "steps" or any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
        assert [change.key for change in changes(config, other, {}, {})] == ([] if harmless else [key]), key


@pytest.mark.parametrize(
    ("decay", "done", "steps", "found"),
    [(0, 20, 30, []), (5, 15, 30, []), (5, 16, 30, ["steps"]), (5, 10, 15, []), (5, 11, 15, ["steps"])],
)
def test_the_number_of_steps_may_change_until_the_learning_rate_falls(decay, done, steps, found):
    config = resolved(read_config(TrainingConfig, "tiny-stage1"))
    config["optimiser"] |= {"warmup_steps": 2, "decay_steps": decay}
    before, now = config | {"steps": 20}, config | {"steps": steps}
    assert [change.key for change in changes(before, now, {}, {}, done)] == found


def test_a_setting_that_a_checkpoint_does_not_know_yet_had_its_default():
    config = resolved(read_config(TrainingConfig, "tiny-stage1"))
    older = read_values(config)
    del older["optimiser"]["decay_steps"]
    assert completed(older) == config
    assert completed(older | {"gone": 1}) == older | {"gone": 1}


def read_values(config):
    return yaml.safe_load(dump(config))


def test_moved_files_are_known_by_their_content():
    before, now = {"base": {"model": "/a"}}, {"base": {"model": "/b"}}
    assert changes(before, now, {"base.model": "1"}, {"base.model": "1"}) == []
    assert [change.key for change in changes(before, now, {"base.model": "1"}, {"base.model": "2"})] == ["base.model"]
    replaced = changes(before, before, {"base.model": "1"}, {"base.model": "2"})
    assert str(replaced[0]) == "base.model: 'another content of /a' in the checkpoint, '/a' now"


def test_descriptions_stand_in_the_manual():
    """Every setting that the paper leaves open is in docs/training.md."""
    manual = (Path(__file__).parents[3] / "docs" / "training.md").read_text("utf-8")
    from likeness.trainer.config_file import known_keys

    missing = [key for key in known_keys(TrainingConfig) if f"`{key}`" not in manual]
    assert missing == []
