"""A run that is killed and started again follows the unbroken run's losses to the last bit."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file


def rows(folder):
    log = folder / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def parts(folder):
    return list((folder / "checkpoints").glob(".step-*.part")) if (folder / "checkpoints").exists() else []


@pytest.mark.parametrize("stage", [1, 2])
def test_killed_run_goes_on_bit_for_bit(runs, start, unbroken, stage):
    folder = runs.folder / "killed"
    moments = [
        lambda: rows(folder) >= 1,  # before any checkpoint
        lambda: rows(folder) >= 4,
        lambda: rows(folder) >= 4 and parts(folder),  # while one is being written
    ]
    for moment in moments:
        victim = start(runs.arguments("killed", stage, checkpoints__every=2))
        victim.wait_for(moment)
        os.kill(victim.process.pid, signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    last = start(runs.arguments("killed", stage, checkpoints__every=2))
    assert last.wait() == 0, last.text()
    assert "going on from" in last.text()

    expected = unbroken(stage)
    assert list(expected.losses("one")) == [1, 2, 3, 4, 5, 6]
    assert runs.losses("killed") == expected.losses("one")
    released = f"uniportrait-{'faceid' if stage == 1 else 'router'}_sd15.safetensors"
    ends = [(run / "checkpoints" / "step-00000006") for run in (expected.folder / "one", folder)]
    for file in (released, "trained.safetensors", "optimiser.safetensors", "random.safetensors"):
        first, second = (load_file(end / file) for end in ends)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == [], file


def test_signal_saves_and_the_same_command_goes_on(runs, start, unbroken):
    folder = runs.folder / "stopped"
    victim = start(runs.arguments("stopped", checkpoints__every=100))
    victim.wait_for(lambda: rows(folder) >= 2)
    os.kill(victim.process.pid, signal.SIGTERM)
    assert victim.wait() == 3, victim.text()
    assert "SIGTERM: finishing this step and saving" in victim.text()
    assert "start the same command again" in victim.text()
    done = len(runs.losses("stopped"))
    assert 2 <= done < 6
    assert runs.checkpoints("stopped") == [f"step-{done:08d}"]
    assert runs.run("stopped", checkpoints__every=100) == 0
    assert runs.losses("stopped") == unbroken(1).losses("one")


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group_as_by_ctrl_c_saves_too(runs, start, unbroken, number):
    """The processes that read pictures get the signal as well."""
    folder = runs.folder / "stopped"
    settings = {"checkpoints__every": 100, "data__workers": 2, "data__prefetch": 1}
    victim = start(runs.arguments("stopped", **settings), before=os.setsid)
    victim.wait_for(lambda: rows(folder) >= 1)
    os.killpg(victim.process.pid, number)
    assert victim.wait() == 3, victim.text()
    done = len(runs.losses("stopped"))
    assert runs.checkpoints("stopped") == [f"step-{done:08d}"]
    assert "Traceback" not in victim.text()
    assert runs.run("stopped", checkpoints__every=100) == 0
    assert runs.losses("stopped") == unbroken(1).losses("one")


def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(runs, caplog):
    assert runs.run("run", steps=4, checkpoints__every=2) == 0
    expected = runs.losses("run")
    newest = runs.folder / "run" / "checkpoints" / "step-00000004"
    content = bytearray((newest / "optimiser.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "optimiser.safetensors").write_bytes(content)
    assert runs.run("run", steps=4, checkpoints__every=2) == 0
    assert "step-00000004 is damaged: optimiser.safetensors does not have the checksum" in caplog.text
    assert runs.losses("run") == expected
    assert runs.checkpoints("run") == ["damaged-step-00000004", "step-00000002", "step-00000004"]


def test_going_on_from_a_named_checkpoint_sets_later_ones_aside(runs):
    assert runs.run("run", steps=4, checkpoints__every=2) == 0
    expected = runs.losses("run")
    named = runs.folder / "run" / "checkpoints" / "step-00000002"
    assert runs.run("run", 1, "--resume", str(named), steps=3, checkpoints__every=2) == 0
    assert runs.checkpoints("run") == ["later-step-00000004", "step-00000002", "step-00000003"]
    assert runs.losses("run") == {step: loss for step, loss in expected.items() if step <= 3}


def test_finished_run_makes_no_step(runs):
    assert runs.run("run", steps=2) == 0
    before = runs.losses("run")
    assert runs.run("run", steps=2) == 0
    assert runs.losses("run") == before


def test_harmless_changes_pass_and_a_run_can_be_made_longer(runs, unbroken):
    assert runs.run("run", steps=3) == 0
    assert runs.run("run", logging__every=3, data__workers=1, batch__per_device=2, checkpoints__every=50) == 0
    assert runs.losses("run") == pytest.approx(unbroken(1).losses("one"), rel=1e-6)


def test_changed_maths_is_refused_with_a_list_and_can_be_accepted(runs, capsys, caplog):
    assert runs.run("run", steps=2) == 0
    changed = {"steps": 4, "optimiser__learning_rate": 0.5, "seed": 3}
    assert runs.run("run", **changed) == 2
    error = capsys.readouterr().err
    assert "- optimiser.learning_rate: 0.001 in the checkpoint, 0.5 now" in error
    assert "- seed: 0 in the checkpoint, 3 now" in error
    assert "--accept-changes" in error
    assert "steps: " not in error
    assert len(runs.losses("run")) == 2
    assert runs.run("run", 1, "--accept-changes", **changed) == 0
    assert "going on with changed settings" in caplog.text
    assert len(runs.losses("run")) == 4


def test_files_may_move_but_not_change(runs, capsys, tiny_world, write_pictures):
    assert runs.run("run", steps=2) == 0
    moved = runs.folder / "moved.safetensors"
    moved.write_bytes(tiny_world.backbone.read_bytes())
    assert runs.run("run", steps=3, base__backbone=moved) == 0
    assert runs.run("run", steps=4, data__path=write_pictures([1] * 10)) == 2
    assert "- data.path: " in capsys.readouterr().err


def test_starting_afresh_over_an_old_run_is_refused(runs, capsys):
    assert runs.run("run", steps=2) == 0
    assert runs.run("run", 1, "--resume", "none", steps=2) == 2
    assert "holds a run of 2 steps, which --resume none would overwrite" in capsys.readouterr().err


def test_second_process_in_one_output_is_refused(runs, start, capsys):
    first = start(runs.arguments("run", steps=50, checkpoints__every=100))
    first.wait_for(lambda: rows(runs.folder / "run") >= 1)
    assert runs.run("run", steps=50) == 2
    assert "another process is training in" in capsys.readouterr().err
