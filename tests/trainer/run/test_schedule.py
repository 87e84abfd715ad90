"""The learning rate over a run."""

from __future__ import annotations

import json

import pytest
from likeness.trainer.run.schedule import rate_share


def test_it_rises_stays_and_falls():
    shares = [rate_share(step, 12, 2, 4) for step in range(12)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert [rate_share(step, 3, 0, 0) for step in range(3)] == [1.0, 1.0, 1.0]  # as published: it stays to the end
    assert [rate_share(step, 3, 2, 1) for step in range(3)] == [0.5, 1.0, 0.5]


def test_a_run_stopped_while_it_falls_goes_on_as_the_unbroken_one(runs):
    settings = {"optimiser__decay_steps": 3, "optimiser__learning_rate": 0.01, "steps": 6, "checkpoints__every": 2}
    assert runs.run("whole", **settings) == 0
    lines = [json.loads(line) for line in (runs.folder / "whole" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.005, 0.01, 0.01, 0.0075, 0.005, 0.0025])
    assert runs.run("broken", **settings) == 0
    named = runs.folder / "broken" / "checkpoints" / "step-00000004"
    assert runs.run("broken", 1, "--resume", str(named), **settings) == 0
    assert runs.losses("broken") == runs.losses("whole")
