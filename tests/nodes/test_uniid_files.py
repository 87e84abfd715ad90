"""UniID's files: found where users put them, named where they are missing, refused where they are something else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NONE = "(none)"
TEXT = "UniID, text branch with 3 words: use it with SDXL models"
ADAPTER = "UniID, adapter branch with 25 tokens: use it with SDXL models"
BOTH = "UniID, text branch with 3 words and adapter branch with 25 tokens: use it with SDXL models"


@pytest.fixture
def load_shown(shown, uniid_files):
    """`load_shown(text, adapter)`: what the node says that it loaded."""

    def run(text, adapter, backbone=NONE, **inputs):
        return shown("LoadUniID", text_branch=text, adapter_branch=adapter, backbone=backbone, **inputs)

    return run


@pytest.fixture
def combined(load_uniid, uniid_files):
    """The name of a .safetensors file with both branches."""
    from likeness.adapters.uniid import save_uniid

    path = uniid_files.folder / "uniid" / "both.safetensors"
    save_uniid(path, load_uniid(backbone=NONE).weights)
    yield path.name
    path.unlink()


def test_a_loaded_file_says_what_it_is(load_shown, uniid_files):
    assert load_shown(uniid_files.text_branch, NONE) == TEXT
    assert load_shown(NONE, uniid_files.adapter_branch) == ADAPTER
    assert load_shown(uniid_files.text_branch, uniid_files.adapter_branch, "auto") == BOTH


def test_files_are_known_by_their_keys(load_shown, uniid_files, tmp_path):
    """Published under one name, they may be renamed, and stand in each other's place."""
    folder = uniid_files.folder / "uniid"
    shutil.copy(folder / uniid_files.text_branch, folder / "one.bin")
    shutil.copy(folder / uniid_files.adapter_branch, folder / "other.bin")
    try:
        assert load_shown("one.bin", "other.bin") == load_shown("other.bin", "one.bin") == BOTH
        assert load_shown(NONE, "one.bin") == TEXT
        with pytest.raises(ValueError, match="one.bin and pytorch_model.bin both hold UniID's text branch"):
            load_shown("one.bin", uniid_files.text_branch)
    finally:
        for name in ("one.bin", "other.bin"):
            (folder / name).unlink()


def test_a_file_with_both_branches_may_stand_in_either_place_or_both(load_shown, combined):
    assert load_shown(combined, NONE) == load_shown(NONE, combined) == load_shown(combined, combined) == BOTH


def test_without_any_branch_both_are_offered(load_shown):
    with pytest.raises(ValueError) as raised:
        load_shown(NONE, NONE)
    for fact in (
        "text branch, the adapter branch, or both",
        "checkpoint-12",
        "checkpoint-16",
        "471 MB",
        "pangly/UniID",
    ):
        assert fact in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "facts"),
    [
        ("text_branch", ("text_branch_checkpoints/checkpoint-12/pytorch_model.bin", "471 MB", "MIT", "pangly/UniID")),
        ("adapter_branch", ("adapter_branch_checkpoints/checkpoint-16/pytorch_model.bin", "1.6 GB", "MIT")),
        ("backbone", ("backbone.pth", "261 MB", "non-commercial research", "glint360k_cosface_r100_fp16_0.1")),
    ],
)
def test_each_missing_file_is_named_with_folder_and_source(load_uniid, uniid_files, missing, facts, tmp_path):
    name = getattr(uniid_files, missing)
    path = uniid_files.paths[name]
    path.rename(tmp_path / path.name)
    try:
        with pytest.raises(ValueError, match=f"Load UniID: {name} was not found in ") as raised:
            load_uniid(**{missing: name})
    finally:
        (tmp_path / path.name).rename(path)
    for fact in (*facts, str(uniid_files.folder / "uniid")):
        assert fact in str(raised.value), raised.value


@pytest.mark.parametrize(
    ("slot", "file", "message"),
    [
        ("text_branch", "pulid_v1.1.safetensors", "is a PuLID v1.1 file, open it with Load PuLID .*; Load UniID needs"),
        ("adapter_branch", "backbone.pth", "is an ArcFace iresnet backbone, .*; Load UniID needs files of UniID"),
        (
            "backbone",
            "text_branch",
            "is a UniID text branch, open it with Load UniID .*; the backbone slot needs an Arc",
        ),
    ],
)
def test_files_in_each_others_places_are_named(
    load_uniid, uniid_files, tiny_pulid_models, slot, file, message, tmp_path
):
    given = tiny_pulid_models.paths.get(file) or uniid_files.paths[getattr(uniid_files, file, file)]
    copy = uniid_files.folder / "uniid" / f"given-{given.name}"
    shutil.copy(given, copy)
    try:
        with pytest.raises(ValueError, match=message):
            load_uniid(**{slot: copy.name})
    finally:
        copy.unlink()


def test_a_config_of_another_run_is_named(load_uniid, uniid_files):
    from likeness.demo.tiny_uniid import config_of

    config = uniid_files.paths[config_of(uniid_files.text_branch)]
    before = config.read_text("utf-8")
    config.write_text(before.replace('"num_text_branch_tokens": 3', '"num_text_branch_tokens": 4'))
    try:
        with pytest.raises(ValueError, match=r"num_text_branch_tokens = 4, but its tensors have 3"):
            load_uniid()
    finally:
        config.write_text(before)


def test_files_that_are_replaced_are_loaded_again(node_classes, uniid_files):
    node = node_classes["Likeness_LoadUniID"]
    slots = {slot: getattr(uniid_files, slot) for slot in ("text_branch", "adapter_branch", "backbone")}
    for name in slots.values():
        before, path = node.fingerprint_inputs(**slots), uniid_files.paths[name]
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        assert node.fingerprint_inputs(**slots) != before, name


def test_the_likely_files_are_chosen_at_once(node_classes, uniid_files):
    inputs = {each.id: each for each in node_classes["Likeness_LoadUniID"].define_schema().inputs}
    text, adapter = (str(Path(name)) for name in (uniid_files.text_branch, uniid_files.adapter_branch))
    assert inputs["text_branch"].default == text and inputs["adapter_branch"].default == adapter
    assert inputs["text_branch"].options == [NONE, text, adapter, "backbone.pth"]
    assert inputs["backbone"].options == ["auto", NONE, "backbone.pth", adapter, text]


def test_empty_folders_give_lists_that_work(node_classes, uniid_files, tmp_path):
    import folder_paths

    before = folder_paths.folder_names_and_paths["uniid"]
    folder_paths.folder_names_and_paths["uniid"] = ([str(tmp_path)], before[1])
    try:
        inputs = {each.id: each for each in node_classes["Likeness_LoadUniID"].define_schema().inputs}
    finally:
        folder_paths.folder_names_and_paths["uniid"] = before
    assert inputs["text_branch"].options == inputs["adapter_branch"].options == [NONE]
    assert inputs["backbone"].options == ["auto", NONE]


def test_folders_of_the_extra_model_paths_are_searched(node_classes, tmp_path):
    import folder_paths
    from likeness.nodes.model_files import UNIID_FILES, find_file
    from likeness.nodes.model_folders import register_model_folders

    before = folder_paths.folder_names_and_paths.pop("uniid")
    try:
        folder_paths.add_model_folder_path("uniid", str(tmp_path))
        register_model_folders()
        for file in UNIID_FILES:
            (tmp_path / file.name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.name).write_bytes(b"weights")
            assert find_file(file, file.name, "Load") == tmp_path / file.name
    finally:
        folder_paths.folder_names_and_paths["uniid"] = before
