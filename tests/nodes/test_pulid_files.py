"""PuLID's files: found where users have them, named where they are missing, refused where they are something else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    ("edition", "text"),
    [
        ("v1", "PuLID v1, 17 layers: use it with SDXL models"),
        ("converted", "PuLID v1, 17 layers: use it with SDXL models"),
        ("v1_1", "PuLID v1.1, 17 layers: use it with SDXL models"),
        ("flux", "PuLID for FLUX, 4 blocks: use it with FLUX models"),
    ],
)
def test_a_loaded_file_says_what_it_is(shown, pulid_files, edition, text):
    assert shown("LoadPuLID", file=getattr(pulid_files, edition), parser="auto") == text


@pytest.mark.parametrize("folder", ["clip_vision", "pulid", "text_encoders"])
def test_eva_clip_is_found_where_users_have_it(call, pulid_files, folder, tmp_path):
    """Also the one for timm, as .safetensors, and by the name in a combo."""
    import folder_paths
    from likeness.adapters.checkpoint import read_tensors
    from likeness.faces.eva_clip_files import tower_tensors
    from safetensors.torch import save_file

    original = pulid_files.place(pulid_files.eva_clip)
    tensors, _ = tower_tensors(read_tensors(original).tensors, "", 16)
    tensors["rope.freqs_cos"] = torch.zeros(16, 16)
    hidden = original.rename(tmp_path / original.name)
    before = folder_paths.folder_names_and_paths["text_encoders"]
    folder_paths.folder_names_and_paths["text_encoders"] = ([str(tmp_path / "clip")], before[1])
    place = tmp_path / "clip" if folder == "text_encoders" else pulid_files.models / folder
    place.mkdir(exist_ok=True)
    try:
        save_file({key: value.contiguous() for key, value in tensors.items()}, place / "my-eva02-l.safetensors")
        for file in ("auto", "my-eva02-l.safetensors"):
            assert call("LoadEvaClip", file=file)[0].model.image_size == 112
    finally:
        folder_paths.folder_names_and_paths["text_encoders"] = before
        (place / "my-eva02-l.safetensors").unlink()
        hidden.rename(original)


@pytest.mark.parametrize("place", ["pulid", "insightface/antelopev2/antelopev2", "insightface"])
def test_face_networks_are_found_where_users_have_them(call, load, encode, pulid_files, woman, place, tmp_path):
    moved = {pulid_files.place(name): name for name in (pulid_files.parser, pulid_files.recogniser)}
    folder = pulid_files.models / place
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in moved.items():
        path.rename((folder if path.suffix == ".onnx" else pulid_files.models / "pulid") / name)
    try:
        assert encode(load("v1_1"), woman)[2]
    finally:
        for path, name in moved.items():
            pulid_files.place(name).rename(path)


@pytest.mark.parametrize(
    ("missing", "facts"),
    [
        ("eva_clip", ("Load EVA-CLIP: EVA02_CLIP_L_336_psz14_s6B.pt was not found in", "QuanSun/EVA-CLIP", "MIT")),
        ("parser", ("Load PuLID: parsing_bisenet.pth was not found in", "github.com/xinntao/facexlib")),
        ("recogniser", ("glintr100.onnx (pack antelopev2)", "github.com/deepinsight/insightface", "non-commercial")),
        ("v1", ("Load PuLID: pulid_v1.bin was not found in", "guozinan/PuLID", "Apache-2.0")),
        ("flux", ("Load PuLID: pulid_flux_v0.9.1.safetensors was not found in", "guozinan/PuLID")),
    ],
)
def test_each_missing_file_is_named_with_folder_and_source(load, pulid_files, missing, facts, tmp_path):
    path = pulid_files.place(getattr(pulid_files, missing))
    path.rename(tmp_path / path.name)
    try:
        with pytest.raises(ValueError) as raised:
            load("v1" if missing == "v1" else "flux")
    finally:
        (tmp_path / path.name).rename(path)
    folder = "insightface" if missing == "recogniser" else path.parent.name
    for fact in (*facts, str(pulid_files.models / folder)):
        assert fact in str(raised.value), raised.value


@pytest.mark.parametrize(
    ("node", "inputs", "given", "message"),
    [
        ("LoadPuLID", {"parser": "auto"}, "eva_clip", "is an EVA-CLIP vision tower.*Load PuLID needs a file of PuLID"),
        ("LoadPuLID", {"parser": "auto"}, "parser", "is a face parsing model, .*Load PuLID needs a file of PuLID"),
        ("LoadEvaClip", {}, "parser", "is a face parsing model, .*; the EVA-CLIP slot needs an EVA-CLIP vision tower"),
        ("LoadEvaClip", {}, "v1_1", "is a PuLID v1.1 file, .*; the EVA-CLIP slot needs an EVA-CLIP vision tower"),
    ],
)
def test_files_in_each_others_places_are_named(call, pulid_files, node, inputs, given, message, tmp_path):
    path = pulid_files.place(getattr(pulid_files, given))
    copy = pulid_files.models / "pulid" / path.name
    if copy != path:
        shutil.copy(path, copy)
    try:
        with pytest.raises(ValueError, match=message):
            call(node, file=path.name, **inputs)
    finally:
        if copy != path:
            copy.unlink()


def test_a_parser_of_another_kind_is_named(load, pulid_files):
    with pytest.raises(ValueError, match=r"pulid_v1.bin is a PuLID v1 file, .*; the parser slot needs a face parsing"):
        load("v1_1", parser=pulid_files.v1)


def test_a_recogniser_can_be_chosen_with_its_provider(call, load, encode, shown, node_classes, pulid_files, woman):
    name = "models/antelopev2/glintr100.onnx"
    inputs = {each.id: each for each in node_classes["Likeness_LoadFaceRecogniser"].define_schema().inputs}
    assert inputs["file"].options == ["auto", name]
    assert {"CPU", "CUDA", "ROCM"} <= set(inputs["provider"].options)  # what older packs have
    chosen = call("LoadFaceRecogniser", file=name, provider="CPU")[0]
    adapter = load("v1_1", recogniser=chosen)
    assert adapter.encoder.recogniser is chosen
    assert encode(adapter, woman)[0] == encode(load("v1_1"), woman)[0]
    assert "non-commercial" in shown("LoadFaceRecogniser", file="auto", provider="auto")
    with pytest.raises(ValueError, match="Load Face Recogniser: gone.onnx was not found in .*insightface"):
        call("LoadFaceRecogniser", file="gone.onnx", provider="auto")


def test_files_that_are_replaced_are_loaded_again(node_classes, pulid_files):
    for name, inputs, file in (
        ("LoadPuLID", {"file": pulid_files.v1, "parser": "auto"}, pulid_files.v1),
        ("LoadPuLID", {"file": pulid_files.v1, "parser": "auto"}, pulid_files.parser),
        ("LoadPuLID", {"file": pulid_files.v1, "parser": "auto"}, pulid_files.recogniser),
        ("LoadEvaClip", {"file": "auto"}, pulid_files.eva_clip),
        ("LoadFaceRecogniser", {"file": "auto", "provider": "CPU"}, pulid_files.recogniser),
    ):
        node, path = node_classes[f"Likeness_{name}"], pulid_files.place(file)
        before = node.fingerprint_inputs(**inputs)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        assert node.fingerprint_inputs(**inputs) != before, name


def test_nothing_is_fetched_and_nothing_is_written(load, encode, pulid_files, woman, monkeypatch):
    """No node opens a connection, and no file appears, not even a temporary one that stays."""

    def refuse(*arguments):
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = {path: path.stat().st_size for path in pulid_files.models.rglob("*")}
    assert encode(load("v1_1"), woman)[2]
    assert {path: path.stat().st_size for path in pulid_files.models.rglob("*")} == before


def test_folders_of_the_extra_model_paths_are_searched(node_classes, tmp_path):
    """Each kind of file in a folder of its own, as extra_model_paths.yaml gives it."""
    import folder_paths
    from likeness.nodes.model_files import EVA_CLIP, PARSER, PULID_FILES, PULID_FLUX, PULID_V1_1, find_file
    from likeness.nodes.model_folders import register_model_folders
    from likeness.nodes.recognisers import recogniser_folders

    kinds = {file.folder for file in PULID_FILES}
    before = {kind: folder_paths.folder_names_and_paths.get(kind) for kind in kinds}
    try:
        for kind in kinds:
            folder_paths.folder_names_and_paths.pop(kind, None)
            (tmp_path / kind).mkdir()
            folder_paths.add_model_folder_path(kind, str(tmp_path / kind))
        register_model_folders()
        for file in (EVA_CLIP, PARSER, PULID_FLUX, PULID_V1_1):
            (tmp_path / file.folder / file.name).write_bytes(b"weights")
            assert find_file(file, file.name, "Load") == tmp_path / file.folder / file.name
        assert tmp_path / "insightface" in recogniser_folders()
    finally:
        for kind, paths in before.items():
            folder_paths.folder_names_and_paths[kind] = paths


def test_empty_folders_give_lists_that_say_what_is_missing(node_classes, pulid_files, tmp_path):
    import folder_paths

    before = folder_paths.folder_names_and_paths["pulid"]
    folder_paths.folder_names_and_paths["pulid"] = ([str(Path(tmp_path))], before[1])
    try:
        inputs = {each.id: each for each in node_classes["Likeness_LoadPuLID"].define_schema().inputs}
        assert inputs["file"].options == ["pulid_v1.1.safetensors (not installed)"]
    finally:
        folder_paths.folder_names_and_paths["pulid"] = before


class Surprise:
    """What a hostile pickle holds: a call."""

    def __reduce__(self):
        return print, ("run while loading",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1", "The published one has 0.8 GB"),
        ("v1_1", "The published one has 1.0 GB"),
        ("eva_clip", "The published one has 856 MB"),
        ("parser", "The published one has 53 MB"),
        ("recogniser", "is damaged or not an ONNX model"),
    ],
)
def test_half_a_download_is_named_with_both_sizes(load, pulid_files, name, expected):
    path = pulid_files.place(getattr(pulid_files, name))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    size = f"{len(whole) // 2:,} bytes" + (f" of {len(whole):,}" if name == "v1_1" else "")
    try:
        with pytest.raises(ValueError, match=rf"{path.name}.* damaged") as raised:
            load(name if name.startswith("v1") else "v1_1")
    finally:
        path.write_bytes(whole)
    assert f"({size})" in str(raised.value) and str(raised.value).count(expected) == 1


@pytest.mark.parametrize("name", ["v1", "eva_clip", "parser"])
def test_pickles_with_code_are_not_run(load, pulid_files, name, capsys):
    path = pulid_files.place(getattr(pulid_files, name))
    whole = path.read_bytes()
    torch.save({"weights": torch.load(path, weights_only=True), "more": Surprise()}, path)
    try:
        with pytest.raises(ValueError, match=f"{path.name} contains code beside its tensors"):
            load("v1")
        assert "run while loading" not in capsys.readouterr().out
    finally:
        path.write_bytes(whole)


BLOCKER = """
import sys

sys.modules |= dict.fromkeys({blocked})  # an import of these fails as if they were not installed
sys.path.insert(0, {comfyui!r})
from comfy.cli_args import args
args.cpu = True
import asyncio
import folder_paths
folder_paths.models_dir = {models!r}
folder_paths.folder_names_and_paths["clip_vision"] = ([{models!r} + "/clip_vision"], {{".pt"}})
from likeness.nodes import LikenessExtension
extension = LikenessExtension()
asyncio.run(extension.on_load())
nodes = {{node.define_schema().node_id.split("_")[1]: node for node in asyncio.run(extension.get_node_list())}}
assert len(nodes) > 15, sorted(nodes)

def call(name, **inputs):
    return nodes[name].execute(**inputs).args
"""
NEVER_NEEDED = {"insightface", "facexlib", "dlib", "xformers", "cv2", "skimage", "open_clip", "diffusers"}


def run_without(packages, script, comfyui_path, models, tmp_path):
    script = BLOCKER.format(blocked=packages, comfyui=str(comfyui_path), models=str(models)) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


ENCODING = """
    import numpy, torch
    woman = torch.from_numpy(numpy.load("woman.npy"))[None] / 255
    eva = call("LoadEvaClip", file="auto")[0]
    adapter = call("LoadPuLID", file="pulid_v1.bin", parser="auto", eva_clip=eva)[0]
    faces = {"faces_1": call("DetectFaces", image=woman, detector="auto")[0]}
    found = call("EncodeIdentity", adapter=adapter, faces=faces, structure_scale=0.1, label="", no_face="error")
    assert found[0].tokens["cond"].shape == (10, 64)
"""


def test_photos_are_encoded_without_the_packages_that_others_need(comfyui_path, pulid_files, photographs, tmp_path):
    np.save(tmp_path / "woman.npy", photographs["woman"])
    run_without(NEVER_NEEDED, ENCODING, comfyui_path, pulid_files.models, tmp_path)


def test_an_xformers_that_does_not_work_is_not_asked(comfyui_path, pulid_files, photographs, tmp_path):
    """As on cards and systems that its compiled part was not made for: it imports, and raises when it is used."""
    np.save(tmp_path / "woman.npy", photographs["woman"])
    package = tmp_path / "xformers"
    (package / "ops").mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.0.99"\n_has_cpp_library = True\n')
    (package / "version.py").write_text('__version__ = "0.0.99"\n')
    (package / "ops" / "__init__.py").write_text(
        "def __getattr__(name):\n"
        "    def operator(*arguments, **options):\n"
        "        raise NotImplementedError('No operator found for ' + name)\n"
        "    return operator\n"
    )
    script = f"import xformers.ops\nassert xformers.__version__ == '0.0.99'\n{textwrap.dedent(ENCODING)}"
    run_without(NEVER_NEEDED - {"xformers"}, script, comfyui_path, pulid_files.models, tmp_path)


def test_all_nodes_register_without_any_optional_package(comfyui_path, pulid_files, tmp_path):
    """And those that need one say what to install."""
    script = """
        for node, package, inputs in (
            ("LoadEvaClip", "pip install timm", {"file": "auto"}),
            ("LoadFaceRecogniser", "pip install onnxruntime", {"file": "auto", "provider": "auto"}),
        ):
            try:
                call(node, **inputs)
            except ValueError as error:
                assert package in str(error), error
            else:
                raise AssertionError(node)
        assert call("LoadPuLID", file="pulid_v1.1.safetensors", parser="auto")[0].encoder is None
    """
    run_without(NEVER_NEEDED | {"timm", "onnxruntime"}, script, comfyui_path, pulid_files.models, tmp_path)
