"""Random states survive as tensors."""

from __future__ import annotations

import random

import numpy as np
import torch
from likeness.trainer.run.randomness import random_state, restore_random_state, seed_everything
from safetensors.torch import load_file, save_file


def draws():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(3).tolist()]


def test_generators_go_on_where_they_were(tmp_path):
    seed_everything(3)
    draws()  # leaves a second Gaussian number waiting in Python's and numpy's generators
    save_file(random_state(), tmp_path / "random.safetensors")
    expected = [draws(), draws()]
    restore_random_state(load_file(tmp_path / "random.safetensors"))
    assert [draws(), draws()] == expected


def test_equal_seeds_give_equal_draws():
    seed_everything(2**40 + 1)
    first = draws()
    seed_everything(2**40 + 1)
    assert draws() == first
