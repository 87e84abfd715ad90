"""A killed loop goes on as an unbroken one; the average forgets its start."""

from __future__ import annotations

import pytest
import torch
from likeness.recipes.loop import Average, Loop
from torch import nn


class Killed(Exception):
    pass


def trained(folder, steps, killed_at=None):
    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    optimiser = torch.optim.AdamW(network.parameters(), 0.1)
    losses = []

    def step(number, generator):
        if number == killed_at:
            loop._save(number)  # what the clock does every few minutes
            raise Killed
        loss = network(torch.randn(8, 4, generator=generator)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        return {"loss": loss}

    loop = Loop("small", folder, steps, {"network": network, "optimiser": optimiser}, lambda line: None)
    if killed_at is None:
        loop.run(step)
    else:
        with pytest.raises(Killed):
            loop.run(step)
    return losses


def test_a_killed_run_goes_on_exactly(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = trained(tmp_path / "whole", 9)
    assert trained(tmp_path / "broken", 9, killed_at=4) + trained(tmp_path / "broken", 9) == whole


def test_a_finished_run_computes_nothing(tmp_path):
    trained(tmp_path, 3)
    assert trained(tmp_path, 3) == []


def test_the_average_of_a_standing_network_is_the_network():
    network, copy = nn.Linear(3, 2), nn.Linear(3, 2)
    average = Average(nn.Linear(3, 2), decay=0.9)
    for step in range(300):
        average.update(network, step)
    average.copy_to(copy)
    assert torch.allclose(copy.weight, network.weight, atol=1e-6)
