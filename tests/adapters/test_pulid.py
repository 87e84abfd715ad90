"""PuLID's files: in, out, and every way in which they can be wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from likeness.adapters.checkpoint import CheckpointError
from likeness.adapters.flux_attention import FluxAttentionSizes
from likeness.adapters.id_encoder import IDEncoder, IDEncoderSizes
from likeness.adapters.id_former import IDFormer, IDFormerSizes
from likeness.adapters.layers import SDXL_LAYERS
from likeness.adapters.pulid import EDITIONS, PuLID, PuLIDSizes, load_pulid, save_pulid
from likeness.adapters.uniportrait import load_uniportrait
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SDXL = ("pulid-v1", "pulid-v1.1")
HEADS = {"likeness.heads": "3", "likeness.ca_heads": "3"}


@pytest.fixture
def edited(edited):
    """As everywhere, with the metadata of the tiny files unless others are given."""
    return lambda path, edit, metadata=HEADS: edited(path, edit, metadata)


@pytest.fixture
def saved(tiny_pulid, tmp_path):
    """`saved(edition)`: the file of a tiny adapter."""

    def save(edition: str) -> Path:
        path = tmp_path / f"{edition}.safetensors"
        save_pulid(path, tiny_pulid(edition))
        return path

    return save


def in_ip_adapter_names(path: Path) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in load_file(path).items():
        key = re.sub(r"^id_adapter_attn_layers\.(\d+)\.id_to_([kv])\.", r"ip_adapter.\1.to_\2_ip.", key)
        renamed[re.sub(r"^id_adapter\.", "image_proj.", key)] = value
    return renamed


def test_released_sizes_have_the_published_counts():
    """Parameters and tensors of the released files, on the meta device."""

    def count(module):
        return sum(value.numel() for value in module.parameters()), len(list(module.parameters()))

    hidden = tuple(1280 if layer.level == 2 else 640 for layer in SDXL_LAYERS)
    v1 = PuLID(PuLIDSizes("pulid-v1", IDEncoderSizes(), hidden), device="meta")
    newer = PuLID(PuLIDSizes("pulid-v1.1", IDFormerSizes(), hidden), device="meta")
    flux = PuLID(PuLIDSizes("pulid-flux", IDFormerSizes(), block=FluxAttentionSizes(), num_blocks=20), device="meta")
    assert count(v1.encoder) == (54_886_400, 110)
    assert count(newer.encoder) == count(flux.encoder) == (151_398_400, 172)
    assert count(v1.projections) == count(newer.projections) == (2 * 2048 * (10 * 640 + 60 * 1280), 140)
    assert count(flux.blocks) == (20 * 20_981_760, 140)
    assert v1.blocks is newer.blocks is flux.projections is None


@pytest.mark.parametrize("edition", EDITIONS)
def test_round_trip(saved, tiny_pulid, edition, assert_same_weights):
    loaded = load_pulid(saved(edition))
    assert loaded.sizes == tiny_pulid(edition).sizes
    assert (loaded.edition, loaded.base) == (edition, EDITIONS[edition].base)
    assert_same_weights(loaded, tiny_pulid(edition))
    assert re.fullmatch("[0-9a-f]{64}", loaded.fingerprint)


def test_files_hold_the_released_keys(saved):
    v1, newer, flux = (load_file(saved(edition)) for edition in EDITIONS)
    layers = {f"id_adapter_attn_layers.{n}.id_to_{kind}.weight" for n in range(1, 34, 2) for kind in "kv"}
    mlp = [f"{k}.{leaf}" for k in (0, 1, 3, 4, 6) for leaf in ("weight", "bias")]
    scales = [f"{name}_{scale}" for name in ("mapping", "mapping_patch") for scale in range(5)]
    assert set(v1) == layers | {f"id_adapter.{name}.{key}" for name in ("body", *scales) for key in mlp}
    former = {key.removeprefix("pulid_encoder.") for key in flux if key.startswith("pulid_encoder.")}
    assert len(former) == 172
    assert set(newer) == layers | {f"id_adapter.{key}" for key in former}
    assert {"latents", "proj_out", "id_embedding_mapping.6.bias", "mapping_4.0.weight"} <= former
    assert {key.removeprefix("layers.9.") for key in former if key.startswith("layers.9.")} == {
        *(f"0.norm{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")),
        *(f"0.to_{name}.weight" for name in ("q", "kv", "out")),
        *(f"1.{key}" for key in ("0.weight", "0.bias", "1.weight", "3.weight")),
    }
    assert {key for key in flux if key.startswith("pulid_ca.3.")} == {
        *(f"pulid_ca.3.norm{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")),
        *(f"pulid_ca.3.to_{name}.weight" for name in ("q", "kv", "out")),
    }
    assert len(flux) == 172 + 4 * 7


def test_saving_keeps_metadata_and_lowers_the_dtype(tiny_pulid, tmp_path, assert_same_weights):
    path = tmp_path / "x.safetensors"
    save_pulid(path, tiny_pulid("pulid-flux"), torch.float16, {"steps": "12"})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {**HEADS, "steps": "12"}
    assert_same_weights(load_pulid(path), tiny_pulid("pulid-flux"), torch.float16)


@pytest.mark.parametrize("edition", SDXL)
def test_editions_of_one_file_are_one_adapter(saved, tiny_pulid, tmp_path, edition, assert_same_weights):
    """As released (a flat pickle), converted to IP-Adapter's names, also in float16 or as a nested pickle."""
    path = saved(edition)
    metadata = {} if edition == "pulid-v1" else HEADS
    flat, nested = load_file(path), {"image_proj": {}, "ip_adapter": {}}
    renamed = in_ip_adapter_names(path)
    assert {key.split(".")[0] for key in renamed} == set(nested)
    for key, value in renamed.items():
        part, rest = key.split(".", 1)
        nested[part][rest] = value
    torch.save({**flat, **metadata}, tmp_path / "released.bin")
    torch.save({**nested, **metadata}, tmp_path / "nested.bin")
    save_file(renamed, tmp_path / "converted.safetensors", metadata=metadata)
    save_file({key: value.half() for key, value in renamed.items()}, tmp_path / "fp16.safetensors", metadata=metadata)
    loaded = {path.name: load_pulid(path) for path in tmp_path.iterdir()}
    assert len(loaded) == 5
    for name, adapter in loaded.items():
        assert_same_weights(adapter, tiny_pulid(edition), torch.float16 if name.startswith("fp16") else torch.float32)
    assert len({adapter.fingerprint for adapter in loaded.values()}) == 1


def test_fingerprint_is_the_encoders(saved, edited):
    path = saved("pulid-v1")
    original = load_pulid(path).fingerprint
    layers = edited(path, lambda tensors: tensors["id_adapter_attn_layers.1.id_to_k.weight"].add_(0.5))
    assert load_pulid(layers).fingerprint == original  # identities stay usable
    encoder = edited(path, lambda tensors: tensors["id_adapter.body.0.bias"].add_(0.5))
    assert load_pulid(encoder).fingerprint != original


def test_heads_of_the_released_width_need_no_metadata(tmp_path, edited):
    sizes = PuLIDSizes(
        "pulid-flux",
        IDFormerSizes(6, 8, (7, 7), (9, 9), 16, heads=2, dim_head=64, output_dim=12, ff_mult=2, num_queries=4),
        block=FluxAttentionSizes(24, 12, heads=2, dim_head=128),
        num_blocks=3,
    )
    save_pulid(tmp_path / "x.safetensors", PuLID(sizes))
    assert load_pulid(edited(tmp_path / "x.safetensors", lambda _: None, None)).sizes == sizes


def test_heads_that_cannot_be_told(saved, edited):
    with pytest.raises(
        CheckpointError, match="a width of 12, which is no multiple of 64.*metadata entry likeness.heads"
    ):
        load_pulid(edited(saved("pulid-v1.1"), lambda _: None, None))
    with pytest.raises(CheckpointError, match="width of 24, which is no multiple of 128.*entry likeness.ca_heads"):
        load_pulid(edited(saved("pulid-flux"), lambda _: None, {"likeness.heads": "3"}))


@pytest.mark.parametrize(
    ("edition", "key"),
    [
        ("pulid-v1", "id_adapter.body.0.weight"),
        ("pulid-v1", "id_adapter.mapping_0.6.weight"),
        ("pulid-v1", "id_adapter.mapping_4.0.bias"),
        ("pulid-v1", "id_adapter.mapping_patch_2.1.weight"),
        ("pulid-v1", "id_adapter_attn_layers.7.id_to_k.weight"),
        ("pulid-v1", "id_adapter_attn_layers.33.id_to_v.weight"),
        ("pulid-v1.1", "id_adapter.latents"),
        ("pulid-v1.1", "id_adapter.proj_out"),
        ("pulid-v1.1", "id_adapter.layers.9.1.3.weight"),
        ("pulid-v1.1", "id_adapter.id_embedding_mapping.3.weight"),
        ("pulid-flux", "pulid_encoder.latents"),
        ("pulid-flux", "pulid_ca.0.to_q.weight"),
        ("pulid-flux", "pulid_ca.2.norm2.bias"),
    ],
)
def test_a_missing_tensor_is_named(saved, edition, key, edited):
    with pytest.raises(CheckpointError) as caught:
        load_pulid(edited(saved(edition), lambda tensors: tensors.pop(key)))
    assert "edited.safetensors" in str(caught.value)
    assert EDITIONS[edition].label in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("edition", EDITIONS)
def test_an_unknown_tensor_is_named(saved, edition, edited):
    with pytest.raises(CheckpointError, match=rf"edited.*{EDITIONS[edition].label}.*1 not known: extra\.weight"):
        load_pulid(edited(saved(edition), lambda tensors: tensors.update({"extra.weight": torch.ones(1)})))


@pytest.mark.parametrize(
    ("edition", "key", "shape"),
    [
        ("pulid-v1", "id_adapter.mapping_3.0.weight", (5, 10)),
        ("pulid-v1", "id_adapter_attn_layers.5.id_to_k.weight", (16, 19)),
        ("pulid-v1.1", "id_adapter.layers.4.0.to_kv.weight", (24, 13)),
        ("pulid-flux", "pulid_ca.1.to_out.weight", (24, 23)),
        ("pulid-flux", "pulid_ca.0.to_kv.weight", (48, 21)),  # other identity tokens than the encoder's
    ],
)
def test_a_tensor_of_another_shape_is_named(saved, edition, key, shape, edited):
    with pytest.raises(CheckpointError, match=rf"of another shape: .*{re.escape(key.split('.')[-2])}.*expected"):
        load_pulid(edited(saved(edition), lambda tensors: tensors.update({key: torch.ones(shape)})))


@pytest.mark.parametrize("edition", SDXL)
@pytest.mark.parametrize("gone", [{33}, {1}, {15}, {29, 31, 33}])
def test_a_file_with_fewer_layers_than_a_unet_has(saved, edited, edition, gone):
    def drop(tensors):
        for number in gone:
            for kind in "kv":
                tensors.pop(f"id_adapter_attn_layers.{number}.id_to_{kind}.weight")

    message = (
        rf"has weights for {17 - len(gone)} cross-attention layers.*SDXL, which has 70 \(id_adapter_attn_layers\.1"
    )
    with pytest.raises(CheckpointError, match=message + " to .139"):
        load_pulid(edited(saved(edition), drop))


def test_a_file_that_counts_layers_differently(saved, edited):
    def renumber(tensors):
        layers = {key: tensors.pop(key) for key in list(tensors) if key.startswith("id_adapter_attn_layers.")}
        for key, value in layers.items():
            prefix, number, rest = key.split(".", 2)
            tensors[f"{prefix}.{int(number) // 2}.{rest}"] = value

    with pytest.raises(CheckpointError, match="for 17 cross-attention layers that are not those of SDXL.*odd numbers"):
        load_pulid(edited(saved("pulid-v1"), renumber))


def test_a_file_without_a_block(saved, edited):
    def drop(tensors):
        for key in [key for key in tensors if key.startswith("pulid_ca.1.")]:
            tensors.pop(key)

    with pytest.raises(
        CheckpointError, match=r"has 3 cross-attention blocks, while FLUX takes 20 \(pulid_ca\.0 to .19"
    ):
        load_pulid(edited(saved("pulid-flux"), drop))


def test_a_truncated_file(saved, tmp_path):
    path = saved("pulid-v1")
    torch.save(load_file(path), tmp_path / "pulid_v1.bin")
    for name in (path.name, "pulid_v1.bin"):
        cut = tmp_path / name
        cut.write_bytes(cut.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is damaged or incomplete.*Download it again"):
            load_pulid(cut)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_not_run(saved, tmp_path):
    torch.save({**load_file(saved("pulid-v1")), "x": Hostile(tmp_path / "trace")}, tmp_path / "pulid_v1.bin")
    with pytest.raises(CheckpointError, match=r"pulid_v1\.bin contains code"):
        load_pulid(tmp_path / "pulid_v1.bin")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"id_adapter_attn_layers.1.id_to_k.weight": (640, 2048)},
            "is a PuLID file without its ID encoder, it is incomplete",
        ),
        (
            {"id_former.latents": (1, 4, 4096), "double_ca.0.to_q.weight": (1024, 4096)},
            "is an unofficial PuLID file for FLUX.2",
        ),
        ({"visual.blocks.0.attn.q_bias": (1024,)}, "is an EVA-CLIP vision tower, PuLID's ID encoder reads it"),
        (
            {"image_proj.latents": (1, 16, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
            "is an IP-Adapter for SDXL, UniPortrait takes the one for SD 1.5",
        ),
        ({"double_blocks.0.img_attn.qkv.weight": (9, 3)}, "is a FLUX diffusion model, load it with ComfyUI's own"),
        ({"text_resampler_1.proj_in.weight": (768, 512)}, "is a UniID text branch, open it with Load UniID"),
        (
            {"identity.cond": (10, 8), "identity.uncond": (10, 8)},
            "is a saved Likeness identity, open it with Load Identity",
        ),
        ({"x": (1,)}, "is no model that Likeness knows, check where it comes from"),
    ],
)
def test_other_files_are_named(tmp_path, tensors, message):
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"x\.safetensors {message}.*; Load PuLID needs .*pulid_v1\.bin"):
        load_pulid(tmp_path / "x.safetensors")


def test_uniportrait_and_pulid_are_told_apart(saved, tiny_files):
    with pytest.raises(CheckpointError, match="is a UniPortrait faceid file.*Load PuLID needs a file of PuLID"):
        load_pulid(tiny_files.faceid)
    for edition in EDITIONS:
        label = EDITIONS[edition].label
        with pytest.raises(CheckpointError, match=f"is {label}, open it with Load PuLID.*; the faceid slot needs"):
            load_uniportrait(saved(edition))


@pytest.mark.parametrize("edition", EDITIONS)
def test_encoders_in_half_precision(tiny_pulid, edition):
    adapter = tiny_pulid(edition)
    generator = torch.Generator().manual_seed(1)
    id_cond = torch.randn(2, 14, generator=generator)
    hidden = [torch.randn(2, 6, 10, generator=generator) for _ in range(5)]
    exact = adapter.encoder(id_cond, hidden)
    for dtype, allowed in ((torch.float16, 0.01), (torch.bfloat16, 0.05)):
        encoder = PuLID(adapter.sizes, dtype=dtype).encoder
        encoder.load_state_dict(adapter.encoder.state_dict())
        tokens = encoder(id_cond.to(dtype), [state.to(dtype) for state in hidden])
        assert tokens.dtype == dtype
        assert (tokens.float() - exact).abs().mean() / exact.abs().mean() < allowed


@pytest.mark.parametrize("edition", EDITIONS)
def test_gradients_reach_every_parameter_of_the_encoder(pulid_sizes, edition):
    torch.manual_seed(0)
    sizes = pulid_sizes[edition].encoder
    encoder = IDEncoder(sizes) if edition == "pulid-v1" else IDFormer(sizes)
    tokens = encoder(torch.randn(3, 14), [torch.randn(3, 6, 10) for _ in range(5)])
    (tokens * torch.randn_like(tokens)).sum().backward()
    idle = [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert not idle
