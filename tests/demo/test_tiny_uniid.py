"""UniID's tiny files as the nodes read them, and against the published key tables."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from likeness.adapters.checkpoint import read_tensors
from likeness.adapters.uniid import load_uniid
from likeness.adapters.uniid_tokens import uniid_tokens
from likeness.demo.tiny_uniid import UniidSizes, config_of, write_tiny_uniid_models
from likeness.faces.iresnet import IResNet

SIZES = UniidSizes()


@pytest.fixture(scope="module")
def adapter(tiny_uniid_models):
    paths = tiny_uniid_models.paths
    return load_uniid([paths[tiny_uniid_models.text_branch], paths[tiny_uniid_models.adapter_branch]])


def test_the_files_have_the_released_layout(adapter, tiny_uniid_models):
    """112 and 257 tensors with their prefixes, 925 of the backbone, all in float32; the config says the same."""
    assert adapter.sizes == SIZES.adapter and len(adapter.sizes.layers) == 140
    for name, prefix, number in (
        (tiny_uniid_models.text_branch, "text_branch.", 112),
        (tiny_uniid_models.adapter_branch, "adapter_branch.", 257),
        (tiny_uniid_models.backbone, "", 925),
    ):
        tensors = read_tensors(tiny_uniid_models.paths[name]).tensors
        assert len(tensors) == number and all(key.startswith(prefix) for key in tensors)
        assert {value.dtype for value in tensors.values()} <= {torch.float32, torch.int64}
    config = json.loads(tiny_uniid_models.paths[config_of(tiny_uniid_models.text_branch)].read_text("utf-8"))
    assert (config["num_text_branch_tokens"], config["num_adapter_tokens"], config["adapter_hidden_dim"]) == (3, 25, 32)


def test_people_get_tokens_of_their_own(adapter, tiny_uniid_models):
    backbone = IResNet.from_state_dict(read_tensors(tiny_uniid_models.paths[tiny_uniid_models.backbone]).tensors)
    blobs = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = backbone.recognise(F.interpolate(blobs, size=(112, 112), mode="bilinear") * 2 - 1)
        people = [
            uniid_tokens(adapter, seen.embedding[one : one + 1], [each[one : one + 1] for each in seen.maps])
            for one in range(3)
        ]
    for kind, number in (("cond", 25), ("text", 3)):
        tokens = torch.stack([person[kind] for person in people])
        assert tokens.shape == (3, number, SIZES.base.sdxl.context)
        assert float(tokens.std(0).mean()) > 0.2 * float(tokens.std())
    assert float((people[0]["cond"] - people[0]["uncond"]).std()) > 0.2


def test_equal_seeds_give_equal_bytes_and_whole_files_are_left_alone(tiny_uniid_models, tmp_path):
    again, other = (write_tiny_uniid_models(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    for name, path in tiny_uniid_models.paths.items():
        assert again.paths[name].read_bytes() == path.read_bytes()
        assert (other.paths[name].read_bytes() == path.read_bytes()) == name.endswith("config.json")
    before = {path: path.stat().st_mtime_ns for path in again.paths.values()}
    assert write_tiny_uniid_models(tmp_path / "0") == again
    assert {path: path.stat().st_mtime_ns for path in again.paths.values()} == before
