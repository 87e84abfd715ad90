"""Reading files: what is accepted, and one clear error for everything else."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from likeness.adapters.checkpoint import (
    Checkpoint,
    CheckpointError,
    DamagedFileError,
    check_tensors,
    load_strictly,
    read_tensors,
    save_tensors,
)
from safetensors.torch import save_file
from torch import nn


@pytest.fixture
def tensors():
    return {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}


def test_safetensors_keep_dtype_and_metadata(tensors, tmp_path):
    save_file(tensors, tmp_path / "x.safetensors", metadata={"likeness.heads": "3"})
    file = read_tensors(str(tmp_path / "x.safetensors"))
    assert file.name == "x.safetensors"
    assert file.metadata == {"likeness.heads": "3"}
    assert set(file.tensors) == set(tensors)
    assert all(torch.equal(file.tensors[key], value) for key, value in tensors.items())
    assert file.tensors["b"].dtype == torch.float16


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".BIN"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_flattened(tmp_path, suffix, legacy):
    nested = {"faceid_proj": OrderedDict(latents=torch.ones(1)), "x": {"0.y": nn.Parameter(torch.zeros(2))}, "step": 7}
    path = tmp_path / f"x{suffix}"
    torch.save(nested, path, _use_new_zipfile_serialization=not legacy)
    file = read_tensors(path)
    assert set(file.tensors) == {"faceid_proj.latents", "x.0.y"}
    assert not file.tensors["x.0.y"].requires_grad
    assert file.metadata == {"step": "7"}


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "gone.bin", tmp_path):
        with pytest.raises(CheckpointError, match="does not exist, or is a folder"):
            read_tensors(path)


def test_other_suffix(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.onnx is not a model file: its name should end in \.safetensors"):
        read_tensors(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.98])
def test_truncated_file(tmp_path, kind, kept):
    path = tmp_path / f"cut.{kind}"
    tensors = {f"w{index}": torch.randn(50, 50) for index in range(8)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "bin")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    length, header = int(kept * len(content)), 8 + int.from_bytes(content[:8], "little")
    promised = f" of {len(content):,}" if kind == "safetensors" and length >= header else ""
    size = f"{length:,} bytes{promised}"
    with pytest.raises(
        DamagedFileError, match=rf"cut\.{kind} is damaged or incomplete \({size}\): .+ Download it again"
    ):
        read_tensors(path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is the pointer that Git LFS leaves"),
        (b"\x02\0\0\0\0\0\0\0[]", ""),
        (b'\x0a\0\0\0\0\0\0\0{"a": 123}', ""),
    ],
)
def test_files_that_are_something_else(tmp_path, suffix, content, what):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"damaged or incomplete \({len(content)} bytes\): {what}"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>Not found</html>", b"version https://git-lfs.github.com/spec"]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_web_page_is_not_a_model(tmp_path, content, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_tensors(path)


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_tensors(tmp_path / "x.bin")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class OwnClass:
    pass


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_never_run(tmp_path, legacy):
    trace = tmp_path / "trace"
    torch.save({"a": torch.ones(1), "b": Hostile(trace)}, tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        CheckpointError, match=r"x\.bin contains code beside its tensors \(\w+\.mkdir\) and was not opened"
    ):
        read_tensors(tmp_path / "x.bin")
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_never_run_in_a_plain_pickle(tmp_path, protocol):
    trace = tmp_path / "trace"
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"a": Hostile(trace)}, protocol))
    with pytest.raises(CheckpointError, match=r"x\.ckpt contains code beside its tensors"):
        read_tensors(tmp_path / "x.ckpt")
    assert not trace.exists()


def test_foreign_classes_count_as_code(tmp_path):
    torch.save({"a": OwnClass()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="contains code.*OwnClass"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "holds a Tensor instead of a dictionary of tensors"),
        ([torch.ones(2)], "holds a list instead of a dictionary of tensors"),
        ({"a": torch.ones(1), "b": [1, 2]}, "holds a list at b"),
        ({"a": {"b": 3}}, "holds no tensors"),
        ({}, "holds no tensors"),
    ],
)
def test_not_a_dictionary_of_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=f"x.bin .*{message}"):
        read_tensors(tmp_path / "x.bin")


def test_empty_safetensors(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_tensors(tmp_path / "x.safetensors")


def file_of(tmp_path, tensors):
    return Checkpoint(tmp_path / "file.bin", tensors)


def test_loading_keeps_the_stored_dtype(tmp_path):
    layer = nn.Linear(3, 2, device="meta")
    file = file_of(tmp_path, {"x.w": torch.ones(2, 3, dtype=torch.float16), "x.b": torch.zeros(2)})
    load_strictly(layer, {"weight": (2, 3), "bias": (2,)}, [(file, {"weight": "x.w", "bias": "x.b"})])
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.float16, torch.float32)
    assert torch.equal(layer.weight, file.tensors["x.w"])


def test_errors_name_file_system_and_keys(tmp_path):
    tensors = {f"faceid_proj.k{index}": torch.ones(1) for index in range(7)}
    tensors["faceid_proj.shape"] = torch.ones(2, 2)
    with pytest.raises(CheckpointError) as caught:
        check_tensors(file_of(tmp_path, tensors), {"faceid_proj.shape": (3, 2), "faceid_proj.gone": (1,)}, " other.bin")
    assert str(caught.value) == (
        "file.bin (a UniPortrait faceid file) does not fit other.bin. Keys 1 missing: faceid_proj.gone; 7 not known: "
        "faceid_proj.k0, faceid_proj.k1, faceid_proj.k2, faceid_proj.k3 and 3 more; 1 of another shape: "
        "faceid_proj.shape is (2, 2), expected (3, 2)."
    )


def test_shape_of_a_missing_or_flat_key(tmp_path):
    file = file_of(tmp_path, {"a": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"file\.bin .*is not complete: the key b is missing"):
        file.shape("b", 1)
    with pytest.raises(CheckpointError, match=r"a has the shape \(2,\), expected 2 axes"):
        file.shape("a", 2)


def test_saving_is_all_or_nothing(tensors, tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    save_tensors(path, tensors, {"k": "v"})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_tensors(path, {"a": torch.zeros(3)}, {"k": 5})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["x.safetensors"]


def test_views_and_shared_tensors_can_be_saved(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    save_tensors(tmp_path / "x.safetensors", {"a": base.T, "b": base, "c": base[1:]}, {})
    file = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(file.tensors["a"], base.T)
    assert torch.equal(file.tensors["c"], base[1:])
