"""LoRA pairs, the choice of a set, and the composed layers around them."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.attention_layer import ScaledLoRA, TokenTerm, cross_attention_layer, self_attention_layer
from likeness.adapters.lora import AttentionLoRA, LoRAPair, choose_lora
from likeness.adapters.projection import TokenProjection
from likeness.adapters.sharing import Sharing
from torch import nn


@pytest.mark.parametrize(
    ("single", "multi", "chosen"),
    [
        (1.0, 0.0, ("single", 1.0)),
        (0.0, 1.0, ("multi", 1.0)),
        (0.5, 1.0, ("single", 0.5)),
        (-1.0, 0.7, ("multi", 0.7)),
        (0.0, 0.0, (None, 0.0)),
        (-1.0, -1.0, (None, 0.0)),
    ],
)
def test_single_wins_and_negative_is_off(single, multi, chosen):
    assert choose_lora(single, multi) == chosen


def test_delta_is_what_merging_adds():
    pair, base = LoRAPair(6, 4, 2).double(), nn.Linear(6, 4).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    merged = nn.functional.linear(x, base.weight + 0.7 * pair.delta(), base.bias)
    torch.testing.assert_close(base(x) + 0.7 * pair(x), merged)


@pytest.fixture
def layer(plain_attention):
    torch.manual_seed(0)
    return plain_attention(8, 6, 2).double()


@pytest.fixture
def lora():
    torch.manual_seed(1)
    return AttentionLoRA(8, 6, 3).double()


def test_lora_equals_merged_weights(layer, lora, plain_attention):
    merged = plain_attention(8, 6, 2).double()
    state = layer.state_dict()
    for name, key in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0")):
        state[f"{key}.weight"] = state[f"{key}.weight"] + 0.6 * getattr(lora, name).delta()
    merged.load_state_dict(state)
    x, text = torch.randn(2, 5, 8).double(), torch.randn(2, 7, 6).double()
    term = TokenTerm(TokenProjection(8, 6).double()(torch.randn(2, 1, 4, 6).double()), 0.7)
    torch.testing.assert_close(
        cross_attention_layer(layer, x, text, ScaledLoRA(lora, 0.6), term),
        cross_attention_layer(merged, x, text, None, term),
    )


def test_terms_of_no_scale_are_off_and_not_computed(layer):
    x, text = torch.randn(2, 5, 8).double(), torch.randn(2, 7, 6).double()
    calls = []

    def attention(q, k, v, heads):
        calls.append(k.shape)
        return nn.functional.scaled_dot_product_attention(q, k, v)

    kv = TokenProjection(8, 6).double()(torch.randn(2, 1, 4, 6).double())
    for scale in (0.0, -0.7):
        cross_attention_layer(layer, x, text, None, TokenTerm(kv, scale), TokenTerm(kv, scale), attention=attention)
    assert calls == [(2, 7, 8)] * 2


def test_reference_rows_get_no_terms(layer):
    x, text = torch.randn(4, 5, 8).double(), torch.randn(4, 7, 6).double()
    term = TokenTerm(TokenProjection(8, 6).double()(torch.randn(1, 1, 4, 6).double()), 0.7)
    plain = cross_attention_layer(layer, x, text)
    shared = cross_attention_layer(layer, x, text, None, term, term, reference_chunks=2)
    everywhere = cross_attention_layer(layer, x, text, None, term, term)
    torch.testing.assert_close(shared[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(shared[[1, 3]], everywhere[[1, 3]])
    assert (shared - plain)[[1, 3]].abs().max() > 0.01


def test_what_stands_behind_the_output_layer_is_applied(plain_attention):
    """diffusers keeps a dropout in to_out."""
    x = torch.randn(2, 5, 8).double()
    square = plain_attention(8, 8, 2).double()
    plain = self_attention_layer(square, x)
    square.to_out.append(nn.Hardtanh(-0.01, 0.01))
    torch.testing.assert_close(self_attention_layer(square, x), plain.clamp(-0.01, 0.01))


def test_sharing_one_picture_with_itself_changes_nothing(plain_attention):
    x = torch.randn(2, 5, 8).double()
    square = plain_attention(8, 8, 2).double()
    shared = self_attention_layer(square, x, sharing=Sharing(-0.5, 1.2), reference_chunks=2)
    torch.testing.assert_close(shared, self_attention_layer(square, x))
