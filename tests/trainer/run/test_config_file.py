"""What the settings file may say, and how its faults are told."""

from __future__ import annotations

import pytest
from likeness.trainer.config_file import ConfigError, dump, flatten, known_keys, read_config
from pydantic import BaseModel, ConfigDict, Field


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    learning_rate: float = 1e-5
    weight_decay: float = Field(0.01, ge=0)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int
    optimiser: Inner = Inner()
    extra: Inner | None = None


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        (tmp_path / "run.yaml").write_text(text)
        return read_config(Outer, str(tmp_path / "run.yaml"), overrides)

    return read


def test_values_and_overrides(read):
    config = read("steps: 10\noptimiser:\n  learning_rate: 1e-4\n", "steps=20", "optimiser.weight_decay=0.5")
    assert (config.steps, config.optimiser.learning_rate, config.optimiser.weight_decay) == (20, 1e-4, 0.5)


def test_override_of_a_section_that_the_file_leaves_out(read):
    assert read("steps: 1", "extra.learning_rate=2").extra.learning_rate == 2


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("steps: 1\nstpes: 2", [], r"run.yaml, line 2: there is no setting stpes; did you mean steps\?"),
        (
            "steps: 1\noptimiser:\n\n  learning_rat: 2",
            [],
            r"line 4: .*optimiser.learning_rat; .*optimiser.learning_rate",
        ),
        ("steps: 1\nweight_decay: 2", [], r"line 2: .* weight_decay; did you mean optimiser.weight_decay"),
        ("steps: 1\nzzz: 2", [], r"zzz; at the top there are steps, optimiser, extra"),
        ("optimiser: {}", [], r"the setting steps is missing"),
        ("steps: many", [], r"line 1: steps is 'many': input should be a valid integer"),
        ("steps: 1\noptimiser:\n  weight_decay: -1", [], r"line 3: optimiser.weight_decay is -1: .*greater than"),
        ("steps: 1\nsteps: 2", [], r"line 2: steps is given twice \(first in run.yaml, line 1\)"),
        ("steps: 1", ["steps=x"], r"--set steps=x: steps is 'x'"),
        ("steps: 1", ["steps"], r"write it as key=value"),
        ("steps: 1", ["steps.a=1"], r"steps is a single value"),
        ("steps: [1", [], r"is not a YAML file"),
        ("just words", [], r"holds no settings"),
    ],
)
def test_faults_name_place_and_remedy(read, text, overrides, words):
    with pytest.raises(ConfigError, match=words):
        read(text, *overrides)


def test_every_fault_is_listed(read):
    with pytest.raises(ConfigError) as caught:
        read("a: 1\nb: 2\noptimiser:\n  weight_decay: -1")
    assert str(caught.value).count("\n- ") == 4


def test_absent_file_lists_the_ready_ones():
    with pytest.raises(
        ConfigError, match=r"no settings file nowhere.yaml; the ready ones are .*uniportrait-paper-stage1"
    ):
        read_config(Outer, "nowhere.yaml")


def test_keys_and_values_in_dots():
    assert list(known_keys(Inner)) == ["learning_rate", "weight_decay"]
    assert "extra.weight_decay" in list(known_keys(Outer))
    assert flatten({"a": 1, "b": {"c": 2, "d": {}}}) == {"a": 1, "b.c": 2, "b.d": {}}
    assert dump({"b": 1, "a": "x"}) == "b: 1\na: x\n"
