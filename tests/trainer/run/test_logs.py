"""The log keeps every step once, to the last bit."""

from __future__ import annotations

import random

from likeness.trainer.run.logs import LOG, RunLog, cut_log, read_log


def write(folder, first, last, values=None):
    log = RunLog(folder, first, last, every=2, tensorboard=True, bar=False)
    for step in range(first + 1, last + 1):
        log.step(step, {"loss": (values or {}).get(step, float(step))}, images=4)
    log.close()


def losses(folder):
    return {row["step"]: row["loss"] for row in read_log(folder / LOG)}


def test_losses_read_back_bit_for_bit(tmp_path):
    random.seed(0)
    values = {step: random.random() / 3 for step in range(1, 50)}
    write(tmp_path, 0, 49, values)
    assert losses(tmp_path) == values
    assert list((tmp_path / "tensorboard").iterdir())


def test_steps_done_again_replace_the_old_ones_and_a_cut_line_goes(tmp_path):
    write(tmp_path, 0, 5)
    with open(tmp_path / LOG, "a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path, 3, 6, {4: 0.4, 5: 0.5, 6: 0.6})
    assert losses(tmp_path) == {1: 1, 2: 2, 3: 3, 4: 0.4, 5: 0.5, 6: 0.6}


def test_a_loss_that_is_no_number_is_still_json(tmp_path):
    write(tmp_path, 0, 1, {1: float("nan")})
    assert losses(tmp_path) == {1: "nan"}


def test_cutting_without_a_log(tmp_path):
    cut_log(tmp_path / LOG, 3)
    assert not (tmp_path / LOG).exists()
