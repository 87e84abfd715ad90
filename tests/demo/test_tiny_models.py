"""The written files: layout, determinism, and that what is there is whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from likeness.adapters.routing import hard_routing
from likeness.adapters.uniportrait import load_uniportrait
from likeness.demo import tiny_layouts, tiny_uniportrait
from likeness.demo.tiny_models import TinyModels, write_tiny_models
from likeness.demo.tiny_sizes import TinySizes
from likeness.faces.backbone import IRBackbone
from safetensors import safe_open
from safetensors.torch import load_file

SIZES = TinySizes()
SMALL = TinySizes(vocabulary=64, text_layers=1, vision_layers=1)  # quicker to write, for what does not load them


def shapes_of(tensors):
    return {key: tuple(value.shape) for key, value in tensors.items()}


def contents(models: TinyModels) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in models.paths.items()}


def flat(parts):
    return {f"{part}.{key}": tensor for part, tensors in parts.items() for key, tensor in tensors.items()}


def test_the_pickled_files_have_the_released_layout(tiny_models):
    faceid = torch.load(tiny_models.paths[tiny_models.faceid], weights_only=True)
    router = torch.load(tiny_models.paths[tiny_models.router], weights_only=True)
    backbone = torch.load(tiny_models.paths[tiny_models.backbone], weights_only=True)
    lora = tiny_uniportrait.lora_shapes(SIZES)
    assert set(faceid) == {"faceid_proj", "faceid_adapter"}
    assert set(router) == {"faceid_adapter"}
    assert shapes_of(faceid["faceid_proj"]) == tiny_uniportrait.resampler_shapes(SIZES)
    assert shapes_of(faceid["faceid_adapter"]) == lora | tiny_uniportrait.projection_shapes(SIZES, "faceid")
    assert shapes_of(router["faceid_adapter"]) == lora | tiny_uniportrait.routing_shapes(SIZES)
    assert shapes_of(backbone) == tiny_uniportrait.backbone_shapes(SIZES)
    assert {tensor.dtype for tensor in flat(faceid | router).values()} == {torch.float16}
    assert {tensor.dtype for tensor in backbone.values()} == {torch.float32, torch.int64}


def test_the_safetensors_editions_hold_the_same_tensors(tiny_models):
    for pickled, edition in (
        (tiny_models.faceid, tiny_models.faceid_safetensors),
        (tiny_models.router, tiny_models.router_safetensors),
    ):
        expected = flat(torch.load(tiny_models.paths[pickled], weights_only=True))
        tensors = load_file(tiny_models.paths[edition])
        assert set(tensors) == set(expected)
        assert all(torch.equal(tensors[key], value) for key, value in expected.items())


def test_the_heads_in_the_metadata_are_those_of_the_pickled_file(tiny_models):
    with safe_open(tiny_models.paths[tiny_models.faceid_safetensors], "pt") as file:
        heads = int(file.metadata()["likeness.heads"])
        inner = file.get_slice("faceid_proj.layers.0.0.to_q.weight").get_shape()[0]
    assert heads == inner / 64 > 1


def test_the_image_prompt_file_has_the_flat_released_keys(tiny_models):
    expected = tiny_layouts.under("image_proj.", tiny_uniportrait.image_projection_shapes(SIZES))
    expected |= tiny_layouts.under("ip_adapter.", tiny_uniportrait.projection_shapes(SIZES, "ip"))
    assert shapes_of(load_file(tiny_models.paths[tiny_models.image_prompt])) == expected


def test_the_widths_of_the_parts_agree(tiny_models):
    faceid = load_file(tiny_models.paths[tiny_models.faceid_safetensors])
    vision = load_file(tiny_models.paths[tiny_models.clip_vision])
    backbone = torch.load(tiny_models.paths[tiny_models.backbone], weights_only=True)
    taps = [backbone[f"body.{block}.res_layer.4.weight"].shape[0] for block in (2, 15, 45, 48)]
    hidden = vision["vision_model.post_layernorm.weight"].shape[0]
    assert faceid["faceid_proj.proj_clip.0.weight"].shape[1] == sum(taps[:3]) + hidden
    assert faceid["faceid_proj.proj_id.0.weight"].shape[1] == taps[3]
    assert vision["vision_model.embeddings.position_embedding.weight"].shape[0] == 16 * 16 + 1


def test_every_lora_and_router_does_something(tiny_models):
    faceid = load_file(tiny_models.paths[tiny_models.faceid_safetensors])
    router = load_file(tiny_models.paths[tiny_models.router_safetensors])
    tensors = [*faceid.items(), *router.items()]
    found = [
        value.float().std() for key, value in tensors if ("_lora." in key or "_router." in key) and value.numel() > 1
    ]
    assert len(found) == 2 * 256 + 7 * 16
    assert min(found) > 0.01


@pytest.fixture(scope="module")
def tokens(tiny_models):
    """Identity tokens (4, 16, D) of four pictures of coloured blobs."""
    blobs = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = torch.nn.functional.interpolate(blobs, size=(112, 112), mode="bilinear") * 2 - 1
    backbone = IRBackbone.from_state_dict(torch.load(tiny_models.paths[tiny_models.backbone], weights_only=True))
    resampler = load_uniportrait(tiny_models.paths[tiny_models.faceid]).float().resampler
    with torch.inference_mode():
        taps = backbone.features(pictures)
        assert all(0.1 < float(tap.std()) < 10 for tap in taps)
        return torch.cat([resampler(t[None], torch.zeros(1, 1, SIZES.structure_width), 0.0) for t in to_rows(taps[-1])])


def to_rows(tap):
    return tap.flatten(2).transpose(1, 2)


def test_different_pictures_become_different_identities(tokens):
    directions = torch.nn.functional.normalize(tokens.flatten(1), dim=-1)
    likeness = directions @ directions.T
    assert float(tokens.std()) == pytest.approx(1, abs=0.2)
    assert float(likeness[~torch.eye(4, dtype=torch.bool)].max()) < 0.6


def test_the_routers_give_every_identity_its_share(tiny_models, tokens):
    weights = load_uniportrait(tiny_models.paths[tiny_models.faceid], tiny_models.paths[tiny_models.router]).float()
    shares = []
    with torch.inference_mode():
        for router in weights.routers.values():
            width = router.to_q_router[0].in_features
            x = torch.randn(1, 256, width, generator=torch.Generator().manual_seed(1))
            routing = hard_routing(router.logits(x, router.keys(tokens[None, :2])))
            shares.append(float(routing[..., 0].mean()))
    assert len(shares) == 16
    assert all(0.25 < share < 0.75 for share in shares)


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path):
    first = contents(write_tiny_models(tmp_path / "a", seed=3, sizes=SMALL))
    again = contents(write_tiny_models(tmp_path / "b", seed=3, sizes=SMALL))
    other = contents(write_tiny_models(tmp_path / "c", seed=4, sizes=SMALL))
    assert len(first) == 9
    assert first == again
    assert [name for name in first if first[name] == other[name]] == []


def test_whole_models_are_left_alone_and_damaged_ones_written_anew(tmp_path):
    models = write_tiny_models(tmp_path, sizes=SMALL)
    before, bytes_before = {p: p.stat().st_mtime_ns for p in models.paths.values()}, contents(models)
    assert write_tiny_models(tmp_path, sizes=SMALL) == models
    assert before == {path: path.stat().st_mtime_ns for path in models.paths.values()}
    models.paths[models.router].write_bytes(b"half a file")
    models.paths[models.controlnet].unlink()
    write_tiny_models(tmp_path, sizes=SMALL)
    assert contents(models) == bytes_before


def test_another_seed_in_the_same_folder_replaces_the_models(tmp_path):
    write_tiny_models(tmp_path / "a", seed=0, sizes=SMALL)
    replaced = contents(write_tiny_models(tmp_path / "a", seed=1, sizes=SMALL))
    assert replaced == contents(write_tiny_models(tmp_path / "b", seed=1, sizes=SMALL))


def test_a_real_model_of_the_same_name_is_not_overwritten(tmp_path):
    path = tmp_path / "uniportrait" / "uniportrait-faceid_sd15.bin"
    path.parent.mkdir()
    path.write_bytes(b"224 MB of somebody's training")
    with pytest.raises(ValueError, match=r"uniportrait-faceid_sd15\.bin is not one of the tiny models"):
        write_tiny_models(tmp_path, sizes=SMALL)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [path.name]
    assert path.read_bytes() == b"224 MB of somebody's training"


def test_an_interrupted_write_leaves_whole_files_only_and_is_made_good(tmp_path, monkeypatch):
    whole = contents(write_tiny_models(tmp_path / "whole", sizes=SMALL))
    replace, done = os.replace, []

    def full_disk(source, target):
        if len(done) == 4:
            raise OSError("No space left on device")
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_tiny_models(tmp_path / "cut", sizes=SMALL)
    left = {path.name: path.read_bytes() for path in (tmp_path / "cut").rglob("*.*") if path.name in whole}
    assert len(left) == 3  # after the list of what is to be written
    assert all(whole[name] == content for name, content in left.items())
    assert not list((tmp_path / "cut").rglob("*.part"))
    assert contents(write_tiny_models(tmp_path / "cut", sizes=SMALL)) == whole


def test_writing_needs_neither_comfyui_nor_diffusers(tmp_path):
    code = (
        "import sys; from pathlib import Path; from likeness.demo.tiny_models import write_tiny_models;"
        "write_tiny_models(Path(sys.argv[1]));"
        "assert not {'comfy', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], check=True)
    assert len([path for path in Path(tmp_path).rglob("*.*") if path.is_file()]) == 9 + 1
