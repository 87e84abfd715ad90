"""UniID's files: in, out, and every way in which they can be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from likeness.adapters.checkpoint import CheckpointError
from likeness.adapters.image_resampler import ImageResamplerSizes
from likeness.adapters.pulid import load_pulid, save_pulid
from likeness.adapters.uniid import UniID, UniIDSizes, load_uniid, save_uniid
from likeness.adapters.uniportrait import load_uniportrait
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HEADS = {"likeness.heads": "3", "likeness.heads_1": "2", "likeness.heads_2": "3"}
FIRST_PROJECTION = "adapter_branch.adapter_modules.1.to_k_ip.weight"


@pytest.fixture
def edited(edited):
    """As everywhere, with the metadata of the tiny files unless others are given."""
    return lambda path, edit, metadata=HEADS: edited(path, edit, metadata)


@pytest.fixture
def saved(tiny_uniid, tmp_path):
    """`saved("text")`: the file of a tiny UniID with these branches, both if none is named."""

    def save(*branches: str) -> Path:
        path = tmp_path / f"{'-'.join(branches) or 'both'}.safetensors"
        save_uniid(path, tiny_uniid(*branches))
        return path

    return save


def without_prefix(path: Path, name: str) -> Path:
    tensors = {re.sub(r"^(text|adapter)_branch\.", "", key): value for key, value in load_file(path).items()}
    save_file(tensors, path.with_name(name), metadata=HEADS)
    return path.with_name(name)


@pytest.mark.parametrize("branches", [("text",), ("adapter",), ()])
def test_round_trip(saved, tiny_uniid, branches, assert_same_weights):
    loaded, made = load_uniid([saved(*branches)]), tiny_uniid(*branches)
    assert loaded.sizes == made.sizes
    assert_same_weights(loaded, made)
    for branch, fingerprint in loaded.fingerprints.items():
        assert bool(fingerprint) == (branch in branches or not branches)
    assert loaded.fingerprint == f"{loaded.fingerprints['text']}+{loaded.fingerprints['adapter']}"
    assert (loaded.text_branch is None) == (branches == ("adapter",))
    assert (loaded.resampler is None) == (loaded.projections is None) == (branches == ("text",))
    assert loaded.sizes.context == 20 and len(loaded.sizes.layers) == (0 if branches == ("text",) else 34)


def test_editions_of_one_model_are_one_adapter(saved, tiny_uniid, tmp_path, assert_same_weights):
    """Two files in both orders, one with both branches, with and without prefixes, as pickles, in float16."""
    text, adapter, both = saved("text"), saved("adapter"), saved()
    pickled = tmp_path / "pytorch_model.bin"
    torch.save({**load_file(both), **HEADS}, pickled)
    editions = {
        "two files": load_uniid([text, adapter]),
        "the other order": load_uniid([adapter, text]),
        "one file": load_uniid([both]),
        "without prefixes": load_uniid(
            [without_prefix(text, "a.safetensors"), without_prefix(adapter, "b.safetensors")]
        ),
        "one file without prefixes": load_uniid([without_prefix(both, "c.safetensors")]),
        "a pickle": load_uniid([pickled]),
    }
    half = tmp_path / "half.safetensors"
    save_uniid(half, tiny_uniid(), torch.float16)
    for loaded in editions.values():
        assert_same_weights(loaded, tiny_uniid())
    editions["float16"] = load_uniid([half])
    assert_same_weights(editions["float16"], tiny_uniid(), torch.float16)
    assert len({loaded.fingerprint for loaded in editions.values()}) == 1


def test_fingerprints_are_the_branches_own(saved, edited):
    path = saved()
    original = load_uniid([path]).fingerprints
    layers = edited(path, lambda tensors: tensors[FIRST_PROJECTION].add_(0.5))
    assert load_uniid([layers]).fingerprints == original  # identities stay usable
    text = load_uniid([edited(path, lambda tensors: tensors["text_branch.norm_1.bias"].add_(0.5))]).fingerprints
    assert text["text"] != original["text"] and text["adapter"] == original["adapter"]


def test_saving_keeps_metadata_and_name_norms(tiny_uniid, tmp_path, edited, assert_same_weights):
    path, adapter = tmp_path / "x.safetensors", tiny_uniid()
    adapter.name_norms = torch.rand(3, 2)
    save_uniid(path, adapter, torch.bfloat16, {"steps": "12"})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {**HEADS, "steps": "12"}
    loaded = load_uniid([path])
    assert torch.equal(loaded.name_norms, adapter.name_norms)
    assert_same_weights(loaded, adapter, torch.bfloat16)
    assert load_uniid([edited(path, lambda tensors: tensors.pop("name_norms"))]).name_norms is None


def test_name_norms_that_do_not_fit(saved, edited):
    text, adapter = saved("text"), saved("adapter")
    for path, shape in ((text, (4, 2)), (text, (3,)), (adapter, (3, 2))):
        odd = edited(path, lambda tensors, shape=shape: tensors.update({"name_norms": torch.ones(shape)}))
        with pytest.raises(CheckpointError, match=rf"edited.*name_norms is {re.escape(str(shape))}, but the text"):
            load_uniid([odd])


def test_heads_that_cannot_be_told(saved, edited):
    with pytest.raises(CheckpointError, match="a width of 8, which is no multiple of 64.*entry likeness.heads_1"):
        load_uniid([edited(saved("text"), lambda _: None, None)])
    with pytest.raises(CheckpointError, match="a width of 12, which is no multiple of 64.*entry likeness.heads"):
        load_uniid([edited(saved("adapter"), lambda _: None, None)])


def test_two_files_of_one_branch(saved):
    with pytest.raises(CheckpointError, match=r"text\.safetensors and both\.safetensors both hold UniID's text branch"):
        load_uniid([saved("text"), saved()])
    with pytest.raises(ValueError, match="needs a text branch file, an adapter branch file, or both"):
        load_uniid([])


def test_branches_of_different_base_models(saved, tiny_uniid_sizes, tmp_path):
    sizes = UniIDSizes(adapter=ImageResamplerSizes(output_dim=24), hidden=tiny_uniid_sizes.hidden)
    save_uniid(tmp_path / "other.safetensors", UniID(sizes))
    with pytest.raises(
        CheckpointError, match=r"text\.safetensors makes tokens of width 20, and other\.safet.* of width 24"
    ):
        load_uniid([saved("text"), tmp_path / "other.safetensors"])


@pytest.mark.parametrize(
    "key",
    [
        "text_branch.proj_1.proj.0.weight",
        "text_branch.proj_2.proj.2.bias",
        "text_branch.norm_2.weight",
        "text_branch.text_resampler_1.layers.1.0.to_kv.weight",
        "text_branch.text_resampler_2.norm_out.bias",
        "adapter_branch.latents",
        "adapter_branch.adapter_resampler.proj_face_recog_model_layers.1.bias",
        "adapter_branch.adapter_resampler.layers.0.1.norm2.weight",
        "adapter_branch.adapter_resampler.proj_out.weight",
        FIRST_PROJECTION,
        "adapter_branch.adapter_modules.33.to_v_ip.weight",
    ],
)
@pytest.mark.parametrize("branches", [None, ()])
def test_a_missing_tensor_is_named(saved, key, branches, edited):
    branches = (key.split("_")[0],) if branches is None else branches
    with pytest.raises(CheckpointError) as caught:
        load_uniid([edited(saved(*branches), lambda tensors: tensors.pop(key))])
    assert "edited.safetensors" in str(caught.value) and "UniID" in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("key", ["text_branch.extra", "adapter_branch.extra", "latents"])
def test_an_unknown_tensor_is_named(saved, key, edited):
    with pytest.raises(CheckpointError, match=rf"edited.*UniID file with both branches.*1 not known: {key}"):
        load_uniid([edited(saved(), lambda tensors: tensors.update({key: torch.ones(1)}))])


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("text_branch.proj_2.proj.2.weight", (24, 9)),  # fewer words for the second encoder
        ("text_branch.text_resampler_2.layers.1.1.1.weight", (20, 12)),
        ("adapter_branch.adapter_resampler.layers.1.1.to_kv.weight", (24, 13)),
        ("adapter_branch.adapter_modules.7.to_k_ip.weight", (16, 19)),
        ("adapter_branch.adapter_resampler.norm_out.weight", (21,)),
    ],
)
def test_a_tensor_of_another_shape_is_named(saved, key, shape, edited):
    with pytest.raises(CheckpointError, match=rf"of another shape: {re.escape(key)} is {re.escape(str(shape))}, expec"):
        load_uniid([edited(saved(), lambda tensors: tensors.update({key: torch.ones(shape)}))])


@pytest.mark.parametrize("gone", [{33}, {1}, {15}])
def test_a_file_with_fewer_layers_than_a_unet_has(saved, edited, gone):
    def drop(tensors):
        for number in gone:
            for kind in "kv":
                tensors.pop(f"adapter_branch.adapter_modules.{number}.to_{kind}_ip.weight")

    message = r"for 16 cross-attention layers.*SDXL, which has 70 \(adapter_branch\.adapter_modules\.1 to \.139"
    with pytest.raises(CheckpointError, match=message):
        load_uniid([edited(saved("adapter"), drop)])


def test_a_truncated_file(saved, tmp_path):
    path = saved("adapter")
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    for name in (path.name, "pytorch_model.bin"):
        cut = tmp_path / name
        cut.write_bytes(cut.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is damaged or incomplete.*Download it again"):
            load_uniid([cut])


class TestConfig:
    """The config.json that the published trainer leaves beside a file."""

    @pytest.fixture
    def released(self, saved, tmp_path):
        """`released(branch, **config)`: pytorch_model.bin and config.json in a folder."""

        def write(branch: str, **config: object) -> Path:
            folder = tmp_path / f"{branch}_branch"
            folder.mkdir()
            torch.save({**load_file(saved(branch)), **HEADS}, folder / "pytorch_model.bin")
            (folder / "config.json").write_text(json.dumps(config), "utf-8")
            return folder / "pytorch_model.bin"

        return write

    def test_that_fits(self, released, tiny_uniid, assert_same_weights):
        """A text run's config has the adapter's defaults in it, which do not matter there, and the reverse."""
        text = released("text", num_text_branch_tokens=3, num_adapter_tokens=4, adapter_hidden_dim=768, seed=42)
        adapter = released("adapter", num_text_branch_tokens=2, num_adapter_tokens=5, adapter_hidden_dim=12)
        assert_same_weights(load_uniid([text, adapter]), tiny_uniid())

    @pytest.mark.parametrize(
        ("branch", "field", "size"),
        [
            ("text", "num_text_branch_tokens", 3),
            ("adapter", "num_adapter_tokens", 5),
            ("adapter", "adapter_hidden_dim", 12),
        ],
    )
    def test_that_contradicts_the_tensors(self, released, branch, field, size):
        path = released(branch, **{field: 25})
        message = (
            rf"pytorch_model\.bin \(a UniID {branch}.*config\.json beside it says {field} = 25.*tensors have {size}"
        )
        with pytest.raises(CheckpointError, match=message):
            load_uniid([path])

    def test_that_cannot_be_read(self, released):
        path = released("text")
        path.with_name("config.json").write_text("{", "utf-8")
        with pytest.raises(CheckpointError, match=r"config\.json beside pytorch_model\.bin cannot be read.*delete it"):
            load_uniid([path])

    def test_of_something_else(self, released, tiny_uniid, assert_same_weights):
        path = released("text", architectures=["CLIPModel"])
        assert_same_weights(load_uniid([path]), tiny_uniid("text"))
        path.with_name("config.json").write_text("[]", "utf-8")
        assert_same_weights(load_uniid([path]), tiny_uniid("text"))


OTHERS = [
    (
        {"model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048)},
        "is an SDXL checkpoint, load it with ComfyUI's own Load Checkpoint node",
    ),
    ({"lora_unet_x.lora_down.weight": (4, 8)}, "is an ordinary LoRA, load it with ComfyUI's own LoRA loader node"),
    ({"features.running_mean": (512,)}, "is an ArcFace iresnet backbone, put it in the backbone's place of Load UniID"),
    (
        {"identity.cond": (25, 8), "identity.uncond": (25, 8)},
        "is a saved Likeness identity, open it with Load Identity",
    ),
    ({"text_branch.text_resampler_2.proj_in.weight": (12, 10)}, "is a part of a UniID file, it is incomplete"),
    ({"adapter_branch.adapter_modules.1.to_k_ip.weight": (8, 20)}, "is a part of a UniID file, it is incomplete"),
    ({"x": (1,)}, "is no model that Likeness knows, check where it comes from"),
]


@pytest.mark.parametrize(("tensors", "message"), OTHERS)
def test_other_files_are_named(tmp_path, tensors, message):
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"x\.safetensors {message}.*; Load UniID needs .*pytorch_model\.bin"):
        load_uniid([tmp_path / "x.safetensors"])


@pytest.mark.parametrize(
    ("branches", "label"), [(["text"], "text branch"), (["adapter"], "adapter branch"), ([], "file")]
)
def test_the_systems_are_told_apart(saved, tiny_files, tiny_pulid, tmp_path, branches, label):
    path = saved(*branches)
    with pytest.raises(CheckpointError, match=rf"is a UniID {label}.*, open it with Load UniID.*; Load PuLID needs"):
        load_pulid(path)
    with pytest.raises(
        CheckpointError, match=rf"is a UniID {label}.*, open it with Load UniID.*; the faceid slot needs"
    ):
        load_uniportrait(path)
    save_pulid(tmp_path / "pulid.safetensors", tiny_pulid("pulid-v1"))
    for other, name in (
        (tiny_files.faceid, "a UniPortrait faceid file"),
        (tmp_path / "pulid.safetensors", "a PuLID v1"),
    ):
        with pytest.raises(CheckpointError, match=f"is {name}.*; Load UniID needs files of UniID"):
            load_uniid([path, other])
