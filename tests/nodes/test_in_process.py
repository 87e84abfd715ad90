"""Node classes in this process: inputs that no server can be given, and what needs no server."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_picture_is_named(call, woman, value):
    broken = woman.clone()
    broken[0, 5, 5, 1] = value
    with pytest.raises(ValueError, match="picture 2 of 2 holds values that are NaN or infinite"):
        call("DetectFaces", image=torch.cat([woman, broken]), detector="bundled")


def test_an_empty_batch_is_named(call):
    with pytest.raises(ValueError, match="there is no picture in this input"):
        call("DetectFaces", image=torch.zeros(0, 8, 8, 3), detector="bundled")


def test_transparent_and_grey_pictures_are_searched(call, woman):
    alpha = torch.ones(1, *woman.shape[1:3], 1)
    assert call("DetectFaces", image=torch.cat([woman, alpha], dim=-1), detector="bundled")[1] == 1
    assert call("DetectFaces", image=woman.mean(-1, keepdim=True), detector="bundled")[1] == 1


def test_a_detector_that_is_not_installed_says_where_it_goes(call, woman):
    with pytest.raises(ValueError, match=r"no insightface face detector was found(.|\n)*models/insightface"):
        call("DetectFaces", image=woman, detector="insightface")


def test_without_insightface_auto_is_the_bundled_detector(call, woman):
    assert call("DetectFaces", image=woman, detector="auto")[0].detector == "bundled"


def test_picked_faces_bring_only_their_own_pictures(call, woman):
    faces = call("DetectFaces", image=torch.cat([woman, woman.flip(2)]), detector="bundled")[0]
    assert len(faces) == 2
    chosen, crops = call("PickFaces", faces=faces, rule="by number", count=1, numbers="2")
    assert len(chosen.images) == 1 and chosen[0].image_index == 0
    assert np.array_equal(chosen.crops(), faces.select([1]).crops())
    assert crops.shape == (1, 224, 224, 3) and float(crops.max()) <= 1


def test_nobody_to_apply(call, uniportrait):
    with pytest.raises(ValueError, match="no identity is connected"):
        apply(call, uniportrait, {})


def test_an_adapter_of_another_system_is_refused(call, uniportrait):
    uniportrait.system = "pulid"
    with pytest.raises(ValueError, match="this is a pulid adapter. Connect Load UniPortrait"):
        apply(call, uniportrait, {"identity_1": person(uniportrait)})


def test_an_image_prompt_is_one_picture_and_needs_clip_vision(call, uniportrait, woman):
    people = {"identity_1": person(uniportrait)}
    with pytest.raises(ValueError, match="the image prompt holds 2 pictures; give one"):
        apply(call, uniportrait, people, image_prompt=torch.cat([woman, woman]))
    with pytest.raises(ValueError, match="an image prompt needs CLIP vision"):
        apply(call, uniportrait, people, image_prompt=woman)


def test_a_model_of_another_family_is_refused(call, uniportrait):
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    sizes = dict(in_channels=16, out_channels=16, patch_size=2, vec_in_dim=32, context_in_dim=64, hidden_size=64)
    sizes |= dict(mlp_ratio=2.0, num_heads=4, depth=1, depth_single_blocks=1, axes_dim=[4, 6, 6], theta=10000)
    sizes |= dict(image_model="flux", qkv_bias=True, guidance_embed=True, txt_ids_dims=[], dtype=torch.float32)
    config = comfy.supported_models.Flux(sizes)
    config.set_inference_dtype(torch.float32, None)
    device = comfy.model_management.get_torch_device()
    flux = comfy.model_patcher.ModelPatcher(config.get_model({}, ""), load_device=device, offload_device=device)
    with pytest.raises(ValueError, match="this is a Flux model. UniPortrait works with SD 1.5 models only"):
        apply(call, uniportrait, {"identity_1": person(uniportrait)}, model=flux)


def test_an_identity_of_another_system_cannot_be_mixed(call, uniportrait):
    from dataclasses import replace

    anna, ben = person(uniportrait, "Anna"), replace(person(uniportrait, "Ben"), system="pulid")
    with pytest.raises(ValueError, match='cannot mix "Anna" and "Ben": one was encoded by uniportrait'):
        call("MixIdentities", identities={"identity_1": anna, "identity_2": ben}, weights="", label="")


def test_an_empty_model_folder_gives_lists_that_say_what_is_missing(node_classes):
    inputs = {each.id: each for each in node_classes["Likeness_LoadUniPortrait"].define_schema().inputs}
    assert inputs["faceid"].options == ["uniportrait-faceid_sd15.bin (not installed)"]
    assert inputs["backbone"].options == ["glint360k_curricular_face_r101_backbone.bin (not installed)"]
    assert inputs["router"].options == inputs["image_prompt"].options == ["(none)"]
    [files] = node_classes["Likeness_LoadIdentity"].define_schema().inputs
    assert files.options == ["(no identity saved yet)"]


def test_choosing_what_is_not_installed_says_how_to_get_it(call):
    with pytest.raises(ValueError, match="Download uniportrait-faceid_sd15.bin .* from Junjie96/UniPortrait"):
        call(
            "LoadUniPortrait",
            faceid="uniportrait-faceid_sd15.bin (not installed)",
            router="(none)",
            backbone="",
            image_prompt="(none)",
        )
    with pytest.raises(ValueError, match="Load Identity: nothing is saved yet"):
        call("LoadIdentity", file="(no identity saved yet)")


def test_folders_of_the_extra_model_paths_are_searched(node_classes, tmp_path):
    import folder_paths
    from likeness.nodes.model_files import FACEID, file_options, find_file
    from likeness.nodes.model_folders import register_model_folders

    (tmp_path / "my-faceid.safetensors").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_bytes(b"no weights")
    before = folder_paths.folder_names_and_paths.pop("uniportrait")
    try:
        folder_paths.add_model_folder_path("uniportrait", str(tmp_path))  # what extra_model_paths.yaml does, earlier
        register_model_folders()
        folders = folder_paths.get_folder_paths("uniportrait")
        assert folders == [str(tmp_path), str(Path(folder_paths.models_dir) / "uniportrait")]
        assert file_options(FACEID) == ["my-faceid.safetensors"]
        assert find_file(FACEID, "my-faceid.safetensors", "Load") == tmp_path / "my-faceid.safetensors"
    finally:
        folder_paths.folder_names_and_paths["uniportrait"] = before


def test_a_file_outside_the_model_folders_cannot_be_named(node_classes, tmp_path):
    from likeness.nodes.model_files import FACEID, find_file

    (tmp_path / "secret.bin").write_bytes(b"secret")
    with pytest.raises(ValueError, match="was not found"):
        find_file(FACEID, "../" * 20 + str(tmp_path / "secret.bin").lstrip("/"), "Load")


def test_previews_of_different_sizes_become_one_batch(comfyui_path):
    from likeness.nodes.previews import LONGEST_SIDE, preview_batch

    small, wide = np.full((10, 20, 3), 255, np.uint8), np.full((400, 4000, 3), 51, np.uint8)
    batch = preview_batch([small, wide])
    assert batch.shape == (2, round(400 * LONGEST_SIDE / 4000), LONGEST_SIDE, 3)
    assert batch[0, :10, :20].min() == 1 and batch[0].sum() == 10 * 20 * 3
    torch.testing.assert_close(batch[1], torch.full_like(batch[1], 0.2))


@pytest.fixture
def uniportrait():
    """An adapter as far as Apply looks at it before it reads weights."""
    from likeness.demo.tiny_sizes import TinySizes

    sizes = SimpleNamespace(hidden=TinySizes().layer_widths, resampler=SimpleNamespace(output_dim=64))
    weights = SimpleNamespace(sizes=sizes, fingerprint="abc", routers=None)
    return SimpleNamespace(system="uniportrait", weights=weights, encoder=None)


def person(adapter, label=""):
    from likeness.adapters.identity import Identity

    tokens = {"cond": torch.ones(16, 64), "uncond": torch.zeros(16, 64)}
    return Identity("uniportrait", adapter.weights.fingerprint, tokens, label)


def apply(call, adapter, identities, model=None, image_prompt=None):
    layer = SimpleNamespace(out_features=0, in_features=0)

    class AnyModel:
        model = SimpleNamespace(model_config=None)

        def get_model_object(self, name):
            widths = adapter.weights.sizes.hidden
            number = next(each.number for each in layers() if name.startswith(each.weight_prefix))
            layer.out_features = widths[number]
            layer.in_features = 64 if number % 2 else widths[number]
            return layer

    return call(
        "ApplyUniPortrait",
        model=model or AnyModel(),
        adapter=adapter,
        identities=identities,
        masks={},
        id_scale=0.7,
        lora_scale=1.0,
        start_percent=0.0,
        end_percent=1.0,
        keep_soft_edges=False,
        image_prompt_scale=0.6,
        image_prompt=image_prompt,
    )


def layers():
    from likeness.adapters.layers import SD15_LAYERS

    return SD15_LAYERS
