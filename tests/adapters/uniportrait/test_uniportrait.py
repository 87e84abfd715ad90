"""UniPortrait's files: in, out, and every way in which they can be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from likeness.adapters.checkpoint import CheckpointError
from likeness.adapters.resampler import ResamplerSizes
from likeness.adapters.uniportrait import UniPortrait, UniPortraitSizes, load_uniportrait, save_faceid, save_router
from safetensors import safe_open
from safetensors.torch import load_file, save_file

RELEASED_WIDTHS = (*[320] * 4, *[640] * 4, *[1280] * 10, *[640] * 6, *[320] * 6, *[1280] * 2)


def edited(path: Path, edit, metadata=("likeness.heads", "3")) -> Path:
    """A copy of a .safetensors file after edit(tensors)."""
    tensors = load_file(path)
    edit(tensors)
    copy = path.with_name("edited.safetensors")
    save_file(tensors, copy, metadata=dict([metadata]) if metadata else None)
    return copy


def as_pickle(path: Path, dtype: torch.dtype) -> Path:
    """The same tensors as the publisher has them: nested one level, pickled."""
    nested: dict = {}
    for key, value in load_file(path).items():
        part, rest = key.split(".", 1)
        nested.setdefault(part, {})[rest] = value.to(dtype)
    copy = path.with_suffix(".bin")
    torch.save(nested, copy)
    return copy


def assert_same_weights(actual: UniPortrait, expected: UniPortrait, parts: int) -> None:
    left, right = actual.state_dict(), expected.state_dict()
    assert len(left) == parts
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def test_released_sizes_have_the_published_counts():
    """Parameters and tensors of the released files, on the meta device."""
    adapter = UniPortrait(UniPortraitSizes(RELEASED_WIDTHS, ResamplerSizes(), 128, 128, 1024), device="meta")

    def count(module):
        return sum(value.numel() for value in module.parameters()), len(list(module.parameters()))

    assert count(adapter.resampler) == (67_216_512, 121)
    assert count(adapter.lora_single) == count(adapter.lora_multi) == (25_509_888, 256)
    assert count(adapter.projections) == count(adapter.ip_projections) == (19_169_280, 32)
    assert count(adapter.routers) == (87_655_056, 128)


def test_round_trip(tiny_adapter, tiny_files):
    loaded = load_uniportrait(tiny_files.faceid, tiny_files.router, tiny_files.image_prompt)
    assert loaded.sizes == tiny_adapter.sizes
    assert_same_weights(loaded, tiny_adapter, len(tiny_adapter.state_dict()))
    assert re.fullmatch("[0-9a-f]{64}", loaded.fingerprint)


def test_files_hold_the_released_keys(tiny_files):
    faceid, router = load_file(tiny_files.faceid), load_file(tiny_files.router)
    assert {key.split(".")[0] for key in faceid} == {"faceid_proj", "faceid_adapter"}
    assert {"faceid_proj.layers.0.0.to_kv.weight", "faceid_adapter.31.to_v_faceid.weight"} <= set(faceid)
    assert "faceid_adapter.30.to_out_lora.up.weight" in faceid
    assert sum("_faceid" in key for key in faceid) == 32
    assert sum("_lora" in key for key in faceid) == sum("_lora" in key for key in router) == 256
    assert {key.split(".", 2)[2] for key in router if key.startswith("faceid_adapter.5.") and "lora" not in key} == {
        "to_q_router.0.weight",
        "to_q_router.0.bias",
        "to_q_router.2.weight",
        "to_k_router.0.weight",
        "to_k_router.0.bias",
        "to_k_router.2.weight",
        "aggr_router.weight",
        "aggr_router.bias",
    }
    with safe_open(tiny_files.faceid, "pt") as file:
        assert file.metadata() == {"likeness.heads": "3"}


def test_metadata_of_a_training_run_is_kept(tiny_adapter, tmp_path):
    save_router(tmp_path / "r.safetensors", tiny_adapter, metadata={"steps": "12"})
    save_faceid(tmp_path / "f.safetensors", tiny_adapter, metadata={"steps": "12"})
    for name, expected in (("r", {"steps": "12"}), ("f", {"steps": "12", "likeness.heads": "3"})):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == expected


def test_parts_without_a_file_are_none(tiny_files):
    loaded = load_uniportrait(tiny_files.faceid)
    assert loaded.routers is loaded.lora_multi is loaded.image_projection is loaded.ip_projections is None
    with pytest.raises(ValueError, match="no router to save"):
        save_router(tiny_files.router, loaded)


def test_heads_of_64_channels_need_no_metadata(tmp_path, tiny_sizes):
    sizes = UniPortraitSizes(tiny_sizes.hidden, ResamplerSizes(6, 8, 16, 1, 2, 64, 4, 20, 2), rank=2)
    save_faceid(tmp_path / "x.safetensors", UniPortrait(sizes))
    loaded = load_uniportrait(edited(tmp_path / "x.safetensors", lambda _: None, metadata=None))
    assert (loaded.sizes.resampler.heads, loaded.sizes.resampler.dim_head) == (2, 64)


def test_editions_agree_in_dtype_and_fingerprint(tmp_path, tiny_sizes):
    """A released .bin in float16, its float32 and its .safetensors edition are one adapter."""
    sizes = UniPortraitSizes(tiny_sizes.hidden, ResamplerSizes(6, 8, 16, 1, 1, 64, 4, 20, 2), rank=2)
    torch.manual_seed(0)
    adapter = UniPortrait(sizes)
    half, full = tmp_path / "half.safetensors", tmp_path / "full.safetensors"
    save_faceid(half, adapter, torch.float16)
    save_faceid(full, adapter.half().float())
    editions = [half, full, as_pickle(half, torch.float16), as_pickle(full, torch.float32)]
    loaded = [load_uniportrait(path) for path in editions]
    assert [next(edition.parameters()).dtype for edition in loaded] == [torch.float16, torch.float32] * 2
    assert len({edition.fingerprint for edition in loaded}) == 1
    other = edited(full, lambda tensors: tensors["faceid_proj.norm_out.bias"].add_(0.5), None)
    assert load_uniportrait(other).fingerprint != loaded[0].fingerprint
    lora_only = edited(full, lambda tensors: tensors["faceid_adapter.0.to_q_lora.up.weight"].add_(0.5), None)
    assert load_uniportrait(lora_only).fingerprint == loaded[0].fingerprint  # identities stay usable


def test_files_in_each_others_place(tiny_files):
    with pytest.raises(
        CheckpointError,
        match=r"router\.safetensors is a UniPortrait router file, put it in router; the faceid slot needs a file with "
        r"faceid_proj\.\* keys",
    ):
        load_uniportrait(tiny_files.router)
    with pytest.raises(CheckpointError, match="is a UniPortrait faceid file, put it in faceid; the router slot needs"):
        load_uniportrait(tiny_files.faceid, router=tiny_files.faceid)
    with pytest.raises(CheckpointError, match="is an IP-Adapter for SD 1.5, put it in image_prompt; the router slot"):
        load_uniportrait(tiny_files.faceid, router=tiny_files.image_prompt)
    with pytest.raises(CheckpointError, match="is a UniPortrait faceid file.*the image_prompt slot needs"):
        load_uniportrait(tiny_files.faceid, image_prompt=tiny_files.faceid)


def test_router_file_without_router_keys(tiny_files):
    bare = edited(tiny_files.router, lambda t: [t.pop(key) for key in list(t) if "_router." in key])
    with pytest.raises(CheckpointError, match="without faceid_proj and without router keys, it is incomplete"):
        load_uniportrait(tiny_files.faceid, bare)


@pytest.mark.parametrize(
    "key",
    [
        "faceid_proj.latents",
        "faceid_proj.layers.1.2.3.weight",
        "faceid_adapter.0.to_q_lora.up.weight",
        "faceid_adapter.13.to_k_faceid.weight",
        "faceid_adapter.30.to_out_lora.down.weight",
    ],
)
def test_missing_key(tiny_files, key):
    with pytest.raises(CheckpointError, match=rf"edited\.safetensors \(a UniPortrait faceid file\).*{re.escape(key)}"):
        load_uniportrait(edited(tiny_files.faceid, lambda tensors: tensors.pop(key)))


@pytest.mark.parametrize("key", ["faceid_adapter.7.aggr_router.bias", "faceid_adapter.0.to_q_lora.down.weight"])
def test_missing_router_key(tiny_files, key):
    with pytest.raises(CheckpointError, match=rf"edited\.safetensors \(a UniPortrait router file\).*{re.escape(key)}"):
        load_uniportrait(tiny_files.faceid, edited(tiny_files.router, lambda tensors: tensors.pop(key)))


def test_extra_key(tiny_files):
    extra = edited(tiny_files.faceid, lambda tensors: tensors.update({"faceid_proj.more": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"Keys 1 not known: faceid_proj\.more\."):
        load_uniportrait(extra)


def test_wrong_shape(tiny_files):
    key = "faceid_adapter.9.to_k_faceid.weight"
    wrong = edited(tiny_files.faceid, lambda tensors: tensors.update({key: torch.ones(24, 21)}))
    with pytest.raises(CheckpointError, match=rf"1 of another shape: {key} is \(24, 21\), expected \(24, 20\)"):
        load_uniportrait(wrong)


def test_router_of_other_widths(tiny_files, tiny_sizes):
    wider = UniPortrait(
        UniPortraitSizes(tuple(2 * width for width in tiny_sizes.hidden), tiny_sizes.resampler, 2, multi_rank=2)
    )
    other = tiny_files.router.with_name("other.safetensors")
    save_router(other, wider)
    with pytest.raises(
        CheckpointError, match=r"other\.safetensors .* does not fit faceid\.safetensors\. Keys .* shape"
    ):
        load_uniportrait(tiny_files.faceid, other)


def test_image_prompt_of_another_context(tiny_files):
    wider = edited(
        tiny_files.image_prompt,
        lambda tensors: tensors.update(
            {key: torch.ones(value.shape[0], 24) for key, value in tensors.items() if "_ip" in key}
        ),
    )
    with pytest.raises(CheckpointError, match=r"does not fit faceid\.safetensors\. Keys 32 of another shape"):
        load_uniportrait(tiny_files.faceid, image_prompt=wider)


def test_another_number_of_layers(tiny_files):
    def drop(tensors):
        for key in [key for key in tensors if key.startswith(("faceid_adapter.30.", "faceid_adapter.31."))]:
            del tensors[key]

    with pytest.raises(
        CheckpointError, match="weights for 30 attention layers, while SD 1.5 has 32.*another base model"
    ):
        load_uniportrait(edited(tiny_files.faceid, drop))


def test_heads_that_cannot_be_told(tiny_files):
    with pytest.raises(
        CheckpointError, match="cannot be told from a width of 12.*needs the metadata entry likeness.heads"
    ):
        load_uniportrait(edited(tiny_files.faceid, lambda _: None, metadata=None))
    for heads in ("5", "0", "-3", "many"):
        with pytest.raises(CheckpointError, match=f"metadata say {heads} heads, which do not divide a width of 12"):
            load_uniportrait(edited(tiny_files.faceid, lambda _: None, ("likeness.heads", heads)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_whole_layer(tiny_adapter, dtype, run_cross, of_layer, plain_attention):
    """Relative error of the mean, with the routing of float32 where the two best logits are close."""
    torch.manual_seed(3)
    number = 9
    layer = plain_attention(24, 20, 2)
    x, text = torch.randn(2, 12, 24), torch.randn(2, 7, 20)
    inputs = {"text_tokens": text, "faceid_tokens": torch.randn(2, 10, 20), "ip_tokens": torch.randn(2, 4, 20)}
    inputs["faceid_mask"] = torch.rand(1, 2, 9, 11)
    options = {"num_faceids": 2, "faceid_scale": 0.7, "ip_scale": 0.5, "multi_id_lora_scale": 1.0}
    with torch.no_grad():
        exact = run_cross(layer, of_layer(tiny_adapter, number), x, inputs, options, (3, 4))
        half_inputs = {key: value.to(dtype) for key, value in inputs.items()}
        half_inputs["faceid_mask"] = inputs["faceid_mask"]
        half = run_cross(
            layer.to(dtype), of_layer(tiny_adapter.to(dtype), number), x.to(dtype), half_inputs, options, (3, 4)
        )
    assert half.output.dtype == half.logits.dtype == dtype
    allowed = 0.005 if dtype == torch.float16 else 0.04
    for actual, expected in ((half.output, exact.output), (half.logits, exact.logits)):
        assert (actual.float() - expected).abs().mean() / expected.abs().mean() < allowed
