"""From upright crops to an identity, with the backbone and the branches under ComfyUI's memory manager."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from likeness.adapters.uniid_tokens import uniid_tokens
from likeness.faces.iresnet import IResNet

CROPS = np.random.default_rng(5).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone() -> Any:
    from likeness.model_patches.managed import managed_whole

    network = IResNet(units=(1, 1, 1, 1))
    generator = torch.Generator().manual_seed(3)
    for tensor in network.state_dict().values():
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return managed_whole(network)


@pytest.fixture(scope="module")
def encoder(make_uniid: Any, backbone: Any) -> Any:
    from likeness.model_patches.uniid_encoder import UniidEncoder

    return UniidEncoder(make_uniid().weights, backbone)


def test_what_the_backbone_sees(encoder: Any, backbone: Any) -> None:
    seen = encoder.see(CROPS)
    pixels = torch.from_numpy(CROPS).movedim(-1, 1).float() / 127.5 - 1.0
    expected = backbone.model.recognise(pixels)
    torch.testing.assert_close(seen.embeddings, expected.embedding, rtol=1e-4, atol=1e-4)
    assert [tuple(each.shape) for each in seen.maps] == [
        (3, 64, 56, 56),
        (3, 128, 28, 28),
        (3, 256, 14, 14),
        (3, 512, 7, 7),
    ]
    torch.testing.assert_close(seen.maps[-1], expected.maps[-1], rtol=1e-4, atol=1e-4)


def test_an_identity_has_the_tokens_of_both_branches(encoder: Any) -> None:
    from likeness.model_patches.uniid_models import UniidModels

    seen = encoder.see(CROPS)
    person = encoder.encode(seen, "Ann")
    expected = uniid_tokens(encoder.weights, seen.embeddings, seen.maps)
    assert (person.system, person.label) == ("uniid", "Ann") and not person.is_nobody
    assert {key: tuple(value.shape) for key, value in person.tokens.items()} == {
        "cond": (5, 64),
        "uncond": (5, 64),
        "text": (3, 64),
    }
    assert all(torch.equal(person.tokens[key], value) for key, value in expected.items())
    assert UniidModels(encoder.weights, encoder).made(person)


@pytest.mark.parametrize(("text", "adapter"), [(True, False), (False, True)])
def test_either_branch_alone(make_uniid: Any, backbone: Any, text: bool, adapter: bool) -> None:
    from likeness.model_patches.uniid_encoder import UniidEncoder

    encoder = UniidEncoder(make_uniid(text, adapter).weights, backbone)
    person = encoder.encode(encoder.see(CROPS[:1]))
    assert ("text" in person.tokens) == text and len(person.tokens["cond"]) == (5 if adapter else 0)
    assert not person.is_nobody


def test_many_photos_are_seen_in_parts(encoder: Any) -> None:
    one, twenty = encoder.see(CROPS[:1]), encoder.see(np.repeat(CROPS[:1], 20, axis=0))
    assert len(twenty.embeddings) == 20 and len(twenty.maps[0]) == 20
    torch.testing.assert_close(
        encoder.encode(twenty).tokens["cond"], encoder.encode(one).tokens["cond"], rtol=1e-4, atol=1e-4
    )


def test_norms_that_are_stored_with_the_adapter_go_along(make_uniid: Any, backbone: Any) -> None:
    from likeness.model_patches.uniid_encoder import UniidEncoder

    weights = make_uniid().weights
    weights.name_norms = torch.ones(3, 2)
    encoder = UniidEncoder(weights, backbone)
    assert torch.equal(encoder.encode(encoder.see(CROPS[:1])).tokens["norms"], torch.ones(3, 2))


@pytest.mark.parametrize(("text", "adapter"), [(True, False), (False, True), (True, True)])
def test_a_backbone_of_other_widths(make_uniid: Any, text: bool, adapter: bool) -> None:
    from likeness.model_patches.managed import managed_whole
    from likeness.model_patches.uniid_encoder import UniidEncoder

    narrow = managed_whole(IResNet(widths=(8, 8, 8, 16), units=(1, 1, 1, 1), embedding=512))
    with pytest.raises(ValueError, match=r"Load UniID: this backbone gives maps of \(24, 16\) channels.*backbone.pth"):
        UniidEncoder(make_uniid(text, adapter).weights, narrow)
