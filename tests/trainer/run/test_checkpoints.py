"""A checkpoint is whole or not there, and a damaged one is never taken up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from likeness.trainer.run.checkpoints import (
    MANIFEST,
    clear_parts,
    list_checkpoints,
    newest_whole,
    part_folder,
    prune,
    set_aside,
    write_checkpoint,
)
from likeness.trainer.run.errors import DiskFullError, TrainingError


def write(folder, step, text="weights"):
    def files(part):
        (part / "weights.bin").write_text(f"{text} {step}")
        (part / "deep").mkdir()
        (part / "deep" / "state.json").write_text("{}")

    return write_checkpoint(folder, step, files)


def steps(folder):
    return [checkpoint.step for checkpoint in list_checkpoints(folder)]


def test_written_checkpoint_is_whole_and_lists_every_file(tmp_path):
    checkpoint = write(tmp_path, 7)
    manifest = json.loads((checkpoint.path / MANIFEST).read_text())
    assert checkpoint.path.name == "step-00000007"
    assert set(manifest["files"]) == {"weights.bin", "deep/state.json"}
    assert checkpoint.fault() == ""
    assert newest_whole(tmp_path) == checkpoint
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "manifest", "no manifest"])
def test_damaged_newest_is_named_and_the_one_before_taken(tmp_path, caplog, damage):
    good, bad = write(tmp_path, 10), write(tmp_path, 20)
    file = bad.path / "weights.bin"
    if damage == "changed":
        file.write_text("Weights 20")
    elif damage == "cut":
        file.write_text("weigh")
    elif damage == "missing":
        file.unlink()
    elif damage == "manifest":
        (bad.path / MANIFEST).write_text('{"format": 1')
    else:
        (bad.path / MANIFEST).unlink()
    assert newest_whole(tmp_path) == good
    assert "step-00000020 is damaged" in caplog.text
    assert steps(tmp_path) == [10]
    assert (tmp_path / "damaged-step-00000020").is_dir()


def test_only_damaged_checkpoints_stop_the_run(tmp_path):
    (write(tmp_path, 3).path / "weights.bin").unlink()
    with pytest.raises(TrainingError, match="none of the 1 checkpoints"):
        newest_whole(tmp_path)


def test_failing_write_leaves_nothing(tmp_path):
    write(tmp_path, 1)

    def files(part):
        (part / "weights.bin").write_text("half")
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        write_checkpoint(tmp_path, 2, files)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    write(tmp_path, 1)
    part_folder(tmp_path, 2).mkdir()
    (part_folder(tmp_path, 2) / "weights.bin").write_text("half")
    assert steps(tmp_path) == [1]
    clear_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_writing_a_step_again_keeps_the_old_folder_aside(tmp_path):
    write(tmp_path, 5, "old")
    write(tmp_path, 5, "new")
    assert (tmp_path / "step-00000005" / "weights.bin").read_text() == "new 5"
    assert (tmp_path / "replaced-step-00000005" / "weights.bin").read_text() == "old 5"


def test_setting_aside_twice_keeps_both(tmp_path):
    for _ in range(2):
        set_aside(write(tmp_path, 4), "later")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later-step-00000004", "later-step-00000004-2"]


def test_last_ones_and_multiples_are_kept(tmp_path):
    for step in range(10, 90, 10):
        write(tmp_path, step)
    prune(tmp_path, keep_last=2, keep_every=30)
    assert steps(tmp_path) == [80, 70, 60, 30]
    prune(tmp_path, keep_last=1, keep_every=0)
    assert steps(tmp_path) == [80]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="file size limits are POSIX's")
def test_full_disk_leaves_no_half_files(tmp_path):
    """A limit on file sizes makes the real writes fail, as a full disk would: safetensors' own and Python's."""
    script = f"""
        import resource, torch
        from pathlib import Path
        from safetensors.torch import save_file
        from likeness.trainer.run.checkpoints import write_checkpoint
        from likeness.trainer.run.errors import DiskFullError
        folder = Path({str(tmp_path)!r})
        write_checkpoint(folder, 1, lambda part: (part / "a").write_text("fits"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        writes = [
            lambda part: save_file({{"x": torch.zeros(1_000_000)}}, part / "a.safetensors"),
            lambda part: (part / "a").write_bytes(bytes(1_000_000)),
        ]
        for files in writes:
            try:
                write_checkpoint(folder, 2, files)
            except DiskFullError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the checkpoint of step 2 could not be written: no space left") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_disk_full_is_a_training_error():
    assert issubclass(DiskFullError, TrainingError)
