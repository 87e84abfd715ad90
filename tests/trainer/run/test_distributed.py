"""Processes and passes share a global batch without changing what is learnt."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_two(start, arguments):
    port = free_port()

    def environment(rank):
        values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        return {
            **{key: str(value) for key, value in values.items()},
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }

    return [start(arguments, environment(rank)) for rank in range(2)]


def assert_same_run(expected, found, name):
    losses = expected.losses("one")
    assert found.losses(name) == pytest.approx(losses, rel=1e-6)
    assert len(losses) == 6
    end = Path("checkpoints", "step-00000006", "trained.safetensors")
    weights, others = (load_file(runs.folder / run / end) for runs, run in ((expected, "one"), (found, name)))
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_follow_one_with_the_same_global_batch(runs, start, unbroken, stage):
    for process in start_two(start, runs.arguments("two", stage, batch__per_device=1)):
        assert process.wait() == 0, process.text()
    assert_same_run(unbroken(stage), runs, "two")


def test_run_of_two_processes_is_resumed_by_one(runs, start, unbroken):
    """The data position does not depend on the number of processes."""
    for process in start_two(start, runs.arguments("two", batch__per_device=2, steps=3)):
        assert process.wait() == 0, process.text()
    assert runs.run("two", batch__per_device=2) == 0
    assert_same_run(unbroken(1), runs, "two")


@pytest.mark.parametrize("stage", [1, 2])
def test_accumulated_passes_equal_one_large_batch(runs, unbroken, stage):
    assert runs.run("four", stage, batch__per_device=1) == 0
    assert_same_run(unbroken(stage), runs, "four")
