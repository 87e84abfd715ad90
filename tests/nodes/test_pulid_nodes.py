"""PuLID's nodes in this process, on tiny files with the published names: from photo to latents."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

EDITIONS = {"v1": "SDXL", "v1_1": "SDXL", "flux": "FLUX"}


@pytest.fixture
def woman(photographs):
    return torch.from_numpy(photographs["woman"].copy())[None].float() / 255


@pytest.fixture
def group(photographs):
    return torch.from_numpy(photographs["group"].copy())[None].float() / 255


@pytest.fixture
def load(call, pulid_files):
    """`load("v1_1")`: an adapter that sees photos; `load("v1_1", blind=True)`: one that does not."""

    def run(edition, blind=False, **inputs):
        if not blind:
            inputs.setdefault("eva_clip", call("LoadEvaClip", file="auto")[0])
        return call("LoadPuLID", file=getattr(pulid_files, edition), **{"parser": "auto", **inputs})[0]

    return run


@pytest.fixture
def encode(call):
    """`encode(adapter, image, ...)`: Detect Faces and Encode Identity; returns identity, crops and found."""

    def run(adapter, *images, structure_scale=0.1, label="", no_face="error", **inputs):
        faces = [call("DetectFaces", image=image, detector="bundled")[0] for image in images]
        numbered = {f"faces_{number}": each for number, each in enumerate(faces, 1)}
        inputs = dict(structure_scale=structure_scale, label=label, no_face=no_face, **inputs)
        return call("EncodeIdentity", adapter=adapter, faces=numbered, **inputs)

    return run


@pytest.fixture
def apply(call):
    """`apply(model, adapter, people, ...)`: Apply PuLID; returns the model and the routing record."""

    def run(model, adapter, *people, masks=(), method="auto", id_scale=1.0, sharing="attention", **inputs):
        identities = {f"identity_{number}": person for number, person in enumerate(people, 1)}
        by_number = {f"mask_{number}": mask for number, mask in enumerate(masks, 1) if mask is not None}
        method = method if isinstance(method, dict) else {"method": method}
        settings = dict(start_percent=0.0, end_percent=1.0, keep_soft_edges=True) | inputs
        settings |= dict(method=method, id_scale=id_scale, sharing=sharing)
        return call("ApplyPuLID", model=model, adapter=adapter, identities=identities, masks=by_number, **settings)

    return run


@pytest.fixture
def options(call):
    """`options(joining="mean")`: PuLID Options."""

    def run(**changes):
        inputs = dict(joining="published", faces="one for both", shrinking="as released", noise=0.0, noise_seed=0)
        return call("PuLIDOptions", **inputs | changes)[0]

    return run


def shown(node_classes, name, **inputs):
    with torch.inference_mode():
        return node_classes[f"Likeness_{name}"].execute(**inputs).ui["text"][0]


@pytest.mark.parametrize(
    ("edition", "text"),
    [
        ("v1", "PuLID v1, 17 layers: use it with SDXL models"),
        ("converted", "PuLID v1, 17 layers: use it with SDXL models"),
        ("v1_1", "PuLID v1.1, 17 layers: use it with SDXL models"),
        ("flux", "PuLID for FLUX, 4 blocks: use it with FLUX models"),
    ],
)
def test_a_loaded_file_says_what_it_is(node_classes, pulid_files, edition, text):
    assert shown(node_classes, "LoadPuLID", file=getattr(pulid_files, edition), parser="auto") == text


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_photo_changes_the_picture(load, encode, apply, sample, tiny_bases, woman, edition):
    base, adapter = EDITIONS[edition], load(edition)
    identity, crops, found = encode(adapter, woman, label=" Anna ")
    assert (identity.system, identity.label, identity.preprocessing, found) == (adapter.system, "Anna", "1", True)
    assert crops.shape == (1, 512, 512, 3) and torch.equal(crops[..., 0], crops[..., 1])
    model, record = apply(tiny_bases[base], adapter, identity)
    assert record.labels == ("Anna",)
    plain, drawn = sample(base), sample(base, model)
    assert torch.isfinite(drawn).all() and (drawn - plain).abs().max() > 1e-3
    assert torch.equal(sample(base), plain)
    nothing, _ = apply(tiny_bases[base], adapter, identity, id_scale=0.0)
    assert torch.equal(sample(base, nothing), plain)


def test_a_saved_person_needs_no_encoder(call, load, encode, apply, sample, tiny_bases, woman):
    identity = encode(load("v1_1"), woman, label="Anna")[0]
    call("SaveIdentity", identity=identity, filename="pulid anna", overwrite=True)
    loaded = call("LoadIdentity", file="pulid anna.safetensors")[0]
    assert loaded == identity
    blind = load("v1_1", blind=True)
    assert blind.encoder is None
    pictures = [
        sample("SDXL", apply(tiny_bases["SDXL"], adapter, person)[0])
        for adapter, person in ((load("v1_1"), identity), (blind, loaded))
    ]
    assert torch.equal(*pictures)


def test_identities_mix(call, load, encode, woman, group):
    adapter = load("v1")
    anna, ben = encode(adapter, woman, label="Anna")[0], encode(adapter, group, label="Ben")[0]
    mixed = call("MixIdentities", identities={"identity_1": anna, "identity_2": ben}, weights="1, 3", label="")[0]
    expected = (anna.tokens["cond"] + 3 * ben.tokens["cond"]) / 4
    torch.testing.assert_close(mixed.tokens["cond"], expected)
    assert mixed.system == "pulid-v1"


def test_two_people_with_masks(load, encode, apply, sample, tiny_bases, woman, group):
    """Each mask decides where its person is; with full masks for nobody else nothing is left of the other."""
    adapter = load("v1_1")
    anna, ben = encode(adapter, woman)[0], encode(adapter, group)[0]
    left, everywhere = torch.zeros(1, 64, 64), torch.ones(1, 64, 64)
    left[..., :32] = 1

    def picture(*people, **settings):
        return sample("SDXL", apply(tiny_bases["SDXL"], adapter, *people, method="neutral", **settings)[0])

    torch.testing.assert_close(picture(anna), picture(anna, masks=[everywhere]), rtol=1e-4, atol=1e-4)
    both = picture(anna, ben, masks=[left, 1 - left])
    assert min((both - picture(anna)).abs().max(), (both - picture(ben)).abs().max()) > 1e-4
    shared, divided = picture(anna, ben), picture(anna, ben, sharing="one each")
    assert (shared - divided).abs().max() > 1e-5


def test_several_photos_are_joined_as_the_options_say(load, encode, options, woman, group):
    adapter = load("v1")
    counts = {
        joining: len(encode(adapter, woman, group, pulid_options=options(joining=joining))[0].tokens["cond"])
        for joining in ("published", "all tokens", "mean")
    }
    assert counts == {"published": 15, "all tokens": 20, "mean": 10}
    plain, usual = encode(adapter, woman, group)[0], encode(adapter, woman, group, pulid_options=options())[0]
    assert plain == usual


def test_options_reach_the_encoder(load, encode, options, group):
    adapter = load("v1_1")
    usual = encode(adapter, group)[0]
    for changes in (dict(faces="as released"), dict(shrinking="sharp")):
        other = encode(adapter, group, pulid_options=options(**changes))[0]
        assert not torch.equal(other.tokens["cond"], usual.tokens["cond"]), changes
        assert torch.equal(other.tokens["uncond"], usual.tokens["uncond"])
    assert encode(adapter, group, pulid_options=options(shrinking="smooth"))[0] == usual
    noisy = encode(adapter, group, pulid_options=options(noise=0.5, noise_seed=3))[0]
    assert torch.equal(noisy.tokens["cond"], usual.tokens["cond"])
    assert not torch.equal(noisy.tokens["uncond"], usual.tokens["uncond"])


def test_settings_of_the_other_system_are_named(node_classes, call, load, options, woman):
    from likeness.nodes.encode_identity import _idle_settings

    faces = {"faces_1": call("DetectFaces", image=woman, detector="bundled")[0]}
    inputs = dict(adapter=load("v1_1"), faces=faces, label="", no_face="error")
    assert "Warning" not in shown(node_classes, "EncodeIdentity", structure_scale=0.1, **inputs)
    text = shown(node_classes, "EncodeIdentity", structure_scale=0.3, **inputs)
    assert "Warning: structure_scale changes nothing here: it is UniPortrait's" in text
    assert _idle_settings("uniportrait", 0.3, None) == []
    assert _idle_settings("uniportrait", 0.3, options()) == [
        "pulid_options change nothing here: the adapter is UniPortrait's"
    ]


def test_strangers_among_the_photos_are_noticed(node_classes, call, load, woman):
    """The tests' recogniser is the mean colours of quarters, so that a negative is a stranger."""
    faces = call("DetectFaces", image=torch.cat([woman, woman]), detector="bundled")[0]
    adapter = load("v1_1")
    adapter.encoder.recogniser = SimpleNamespace(
        name="test", embed=lambda crops: torch.eye(12).numpy()[: len(crops)] * 20
    )
    text = shown(
        node_classes,
        "EncodeIdentity",
        adapter=adapter,
        faces={"faces_1": faces},
        structure_scale=0.1,
        label="",
        no_face="error",
    )
    assert "picture 1 and picture 2 look like different people (similarity 0.00; below 0.2)" in text


def test_a_person_without_a_face_can_be_left_out(call, load, encode, apply, sample, tiny_bases, woman):
    adapter, wall = load("v1_1"), torch.full((1, 96, 160, 3), 0.6)
    with pytest.raises(ValueError, match="no face in picture 1"):
        encode(adapter, wall)
    nobody, crops, found = encode(adapter, wall, label="Ben", no_face="leave person out")
    assert nobody.is_nobody and not found and crops.shape == (1, 224, 224, 3)
    alone, record = apply(tiny_bases["SDXL"], adapter, nobody)
    assert alone is tiny_bases["SDXL"] and record.labels == ()
    anna = encode(adapter, woman, label="Anna")[0]
    model, record = apply(tiny_bases["SDXL"], adapter, nobody, anna, masks=[torch.ones(1, 64, 64)])
    assert record.labels == ("Anna",)
    assert torch.equal(sample("SDXL", model), sample("SDXL", apply(tiny_bases["SDXL"], adapter, anna)[0]))
    with pytest.raises(ValueError, match="Save Identity: no photo of this person showed a face"):
        call("SaveIdentity", identity=nobody, filename="", overwrite=False)
    with pytest.raises(ValueError, match="Mix Identities: no photo of identity 2 showed a face"):
        call("MixIdentities", identities={"identity_1": anna, "identity_2": nobody}, weights="", label="")


@pytest.mark.parametrize(
    ("system", "method", "expected"),
    [
        ("pulid-v1", {"method": "auto"}, ("ortho_v2", 8)),
        ("pulid-v1.1", {"method": "auto"}, ("ortho_v2", 20)),
        ("pulid-v1", {"method": "fidelity"}, ("ortho_v2", 8)),
        ("pulid-v1.1", {"method": "style"}, ("ortho", 16)),
        ("pulid-v1", {"method": "neutral"}, ("plain", 0)),
        ("pulid-v1", {"method": "v1.1"}, ("ortho_v2", 20)),
        ("pulid-v1", {"method": "custom", "form": "ortho", "num_zero": 3}, ("ortho", 3)),
        ("pulid-flux", {"method": "style"}, ("plain", 0)),
        ("pulid-flux", {"method": "custom", "form": "ortho", "num_zero": 3}, ("plain", 0)),
    ],
)
def test_methods_are_the_published_ones(node_classes, system, method, expected):
    from likeness.nodes.apply_pulid import chosen_injection

    injection = chosen_injection(system, method, 0.7)
    assert (injection.form, injection.num_zero, injection.scale) == (*expected, 0.7)


def test_the_node_says_what_auto_means(node_classes, load, encode, tiny_bases, woman):
    adapter = load("v1_1")
    identity = encode(adapter, woman, label="Anna")[0]
    inputs = dict(start_percent=0.0, end_percent=1.0, sharing="attention", keep_soft_edges=True, masks={})
    inputs |= dict(model=tiny_bases["SDXL"], adapter=adapter, identities={"identity_1": identity})
    text = shown(node_classes, "ApplyPuLID", method={"method": "auto"}, id_scale=0.8, **inputs)
    assert text == "Anna: PuLID v1.1, ortho_v2 with 20 zero tokens"


def test_an_adapter_of_another_system_is_refused(apply, tiny_bases):
    with pytest.raises(ValueError, match="Apply PuLID: this is a uniportrait adapter. Connect Load PuLID"):
        apply(tiny_bases["SDXL"], SimpleNamespace(system="uniportrait"))


@pytest.mark.parametrize(("edition", "base"), [("v1_1", "FLUX"), ("flux", "SDXL")])
def test_a_model_of_another_base_is_named_with_the_file(load, encode, apply, tiny_bases, woman, edition, base):
    adapter = load(edition)
    with pytest.raises(ValueError, match=r"Apply PuLID: this is a \w+ model. PuLID .* works with"):
        apply(tiny_bases[base], adapter, encode(adapter, woman)[0])


@pytest.mark.parametrize("edition", ["v1", "flux"])
def test_identities_of_another_edition_are_refused(load, encode, apply, tiny_bases, woman, edition):
    other, adapter = encode(load(edition), woman, label="Anna")[0], load("v1_1")
    with pytest.raises(ValueError, match=r"identity 1 \(Anna\) was made by pulid-.*, and pulid-v1.1 is connected"):
        apply(tiny_bases["SDXL"], adapter, other)


def test_an_adapter_without_eva_clip_cannot_see_photos(load, encode, woman):
    with pytest.raises(ValueError, match=r"loaded without EVA-CLIP.*EVA02_CLIP_L_336_psz14_s6B.pt \(856 MB"):
        encode(load("v1", blind=True), woman)


def test_a_mask_without_its_person_is_named(load, encode, apply, tiny_bases, woman):
    adapter = load("v1_1")
    with pytest.raises(ValueError, match="Apply PuLID: mask_2 is connected, but identity_2 is not"):
        apply(tiny_bases["SDXL"], adapter, encode(adapter, woman)[0], masks=[None, torch.ones(1, 64, 64)])


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
            assert call("LoadEvaClip", file=file)[0].model.image_size == 56
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


def test_a_recogniser_can_be_chosen_with_its_provider(call, load, encode, node_classes, pulid_files, woman):
    name = "models/antelopev2/glintr100.onnx"
    inputs = {each.id: each for each in node_classes["Likeness_LoadFaceRecogniser"].define_schema().inputs}
    assert inputs["file"].options == ["auto", name]
    assert {"CPU", "CUDA", "ROCM"} <= set(inputs["provider"].options)  # what older packs have
    chosen = call("LoadFaceRecogniser", file=name, provider="CPU")[0]
    adapter = load("v1_1", recogniser=chosen)
    assert adapter.encoder.recogniser is chosen
    assert encode(adapter, woman)[0] == encode(load("v1_1"), woman)[0]
    assert "non-commercial" in shown(node_classes, "LoadFaceRecogniser", file="auto", provider="auto")
    with pytest.raises(ValueError, match="Load Face Recogniser: gone.onnx was not found in .*insightface"):
        call("LoadFaceRecogniser", file="gone.onnx", provider="auto")


def test_files_that_are_replaced_are_loaded_again(node_classes, pulid_files):
    import os

    for name, inputs, file in (
        ("LoadPuLID", {"file": pulid_files.v1, "parser": "auto"}, pulid_files.v1),
        ("LoadPuLID", {"file": pulid_files.v1, "parser": "auto"}, pulid_files.parser),
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


@pytest.mark.parametrize("edition", [None, "pulid-v1.1"])
def test_pulids_recogniser_does_not_judge_pulid(node_classes, edition):
    from likeness.adapters.identity import Identity
    from likeness.nodes.similarity import _check_independence

    glintr = "models/antelopev2/glintr100.onnx"
    person = edition and Identity(edition, "", {half: torch.zeros(1, 4) for half in ("cond", "uncond")})
    if person is None:
        assert "conditions PuLID" in _check_independence(glintr, None)[0]
    else:
        with pytest.raises(ValueError, match="the identity was made with this recogniser"):
            _check_independence(glintr, person)
        assert _check_independence("buffalo_l/w600k_r50.onnx", person) == []
        assert _check_independence("glint360k_curricular_face_r101_backbone.bin", person) == []


class Surprise:
    """What a hostile pickle holds: a call."""

    def __reduce__(self):
        return print, ("run while loading",)


@pytest.mark.parametrize("name", ["v1", "v1_1", "eva_clip", "parser", "recogniser"])
def test_half_a_download_is_named_with_its_size(load, pulid_files, name):
    path = pulid_files.place(getattr(pulid_files, name))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(ValueError, match=rf"{path.name}.* damaged") as raised:
            load(name if name.startswith("v1") else "v1_1")
        assert name == "recogniser" or f"{len(whole) // 2:,} bytes" in str(raised.value)
    finally:
        path.write_bytes(whole)


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
    import subprocess
    import sys
    import textwrap

    script = BLOCKER.format(blocked=packages, comfyui=str(comfyui_path), models=str(models)) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_photos_are_encoded_without_the_packages_that_others_need(comfyui_path, pulid_files, photographs, tmp_path):
    import numpy as np

    np.save(tmp_path / "woman.npy", photographs["woman"])
    script = """
        import numpy, torch
        woman = torch.from_numpy(numpy.load("woman.npy"))[None] / 255
        eva = call("LoadEvaClip", file="auto")[0]
        adapter = call("LoadPuLID", file="pulid_v1.bin", parser="auto", eva_clip=eva)[0]
        faces = {"faces_1": call("DetectFaces", image=woman, detector="auto")[0]}
        found = call("EncodeIdentity", adapter=adapter, faces=faces, structure_scale=0.1, label="", no_face="error")
        assert found[0].tokens["cond"].shape == (10, 64)
    """
    run_without(NEVER_NEEDED, script, comfyui_path, pulid_files.models, tmp_path)


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
