"""UniID's networks against the tensors of the published implementation; whole systems stand beside this file."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.attention import torch_attention
from likeness.adapters.attention_layer import cross_attention_layer
from likeness.adapters.features import map_tokens, shallow_tokens, zero_maps
from likeness.adapters.image_resampler import SHALLOW_SIDE, ImageResampler, ImageResamplerSizes
from likeness.adapters.perceiver import StackSizes
from likeness.adapters.projection import TokenProjection
from likeness.adapters.text_branch import TextBranch, TextBranchSizes
from likeness.adapters.uniid_attention import UniIDTerm, uniid_attention


@pytest.fixture(scope="module")
def text_branch(golden):
    file = golden("uniid", "01_text_branch")
    config, weights = file.metadata["config"], file.part("text_branch.")
    dim_head = config["dim_head"]
    first, second = (
        StackSizes(width, config["num_layers"], width // dim_head, dim_head)
        for width in (config["cross_attention_dim_1"], config["cross_attention_dim_2"])
    )
    hidden, face_dim = weights["proj_1.proj.0.weight"].shape
    sizes = TextBranchSizes((first, second), config["num_tokens"], face_dim, config["face_recog_model_dim"], hidden)
    branch = TextBranch(sizes)
    branch.load_state_dict(weights)
    return file, branch.requires_grad_(False)


@pytest.mark.golden("uniid", "01_text_branch", "tokens_")
def test_text_branch(text_branch, golden_case, assert_near):
    file, branch = text_branch
    encoder, inputs, expected = int(golden_case) - 1, file.inputs(), file.expected()
    face, last_map = inputs["face_output"], inputs["hidden_last"]
    assert_near(branch(face, last_map)[encoder], expected[f"tokens_{golden_case}"], "tokens")
    nobody = branch(torch.zeros_like(face[:1]), torch.zeros_like(last_map[:1]))[encoder]
    assert_near(nobody, expected[f"zero_tokens_{golden_case}"], "zero face")


def test_text_branch_queries(text_branch, assert_near):
    file, branch = text_branch
    assert_near(branch.queries(file.inputs()["face_output"], 1), file.tensors["mid.queries_1"], "queries")


@pytest.fixture(scope="module")
def image_resampler(golden):
    file = golden("uniid", "02_adapter_resampler")
    config = file.metadata["config"]
    shallow, deep = config["face_recog_model_dims"]
    stack = StackSizes(
        config["hidden_dim"], config["num_layers"], config["heads"], config["dim_head"], config["ff_mult"]
    )
    resampler = ImageResampler(ImageResamplerSizes(stack, config["num_tokens"], shallow, deep, config["output_dim"]))
    latents = file.part("adapter_branch.")["latents"]
    resampler.load_state_dict({**file.part("adapter_branch.adapter_resampler."), "latents": latents})
    maps = [file.inputs()[f"hidden_{level}"] for level in range(4)]
    return file, resampler.requires_grad_(False), maps


def test_image_resampler_features(image_resampler, assert_near):
    file, _, maps = image_resampler
    shallow, deep = shallow_tokens(maps, SHALLOW_SIDE), map_tokens(maps[-1])
    assert list(shallow.shape) == file.tensors["mid.tokens_448_shape"].tolist()
    assert list(deep.shape) == file.tensors["mid.tokens_512_shape"].tolist()
    assert_near(shallow[:, :8], file.tensors["mid.tokens_448_first8"], "first")
    assert_near(shallow[:, -8:], file.tensors["mid.tokens_448_last8"], "last")


def test_image_resampler(image_resampler, assert_near):
    file, resampler, maps = image_resampler
    expected, dropped = file.expected(), file.inputs()["mask"]
    assert_near(resampler(maps), expected["tokens"], "tokens")
    assert_near(resampler(zero_maps(maps)), expected["zero_tokens"], "zero face")
    kept = (~dropped)[:, None, None, None]
    assert_near(resampler([kept * level for level in maps]), expected["masked_tokens"], "dropped rows")
    assert_near(ImageResampler(resampler.sizes)(maps), expected["zero_init_tokens"], "untrained")


@pytest.fixture(scope="module")
def id_attention(golden, plain_attention, assert_near):
    """`id_attention(tokens, case, scale, rescaling)` compares one layer, before and after to_out; and the inputs."""
    file = golden("uniid", "03_id_attention")
    config, inputs = file.metadata["config"], file.inputs()
    layer = plain_attention(config["query_dim"], config["cross_attention_dim"], config["heads"])
    layer.load_state_dict(file.part("attn."))
    projection = TokenProjection(config["query_dim"], config["cross_attention_dim"])
    projection.load_state_dict({key.replace("_ip", ""): value for key, value in file.part("processor.").items()})
    x, text = inputs["hidden_states"], inputs["text_context"]

    @torch.no_grad()
    def check(tokens, case, scale, rescaling):
        q, people = layer.to_q(x), [projection(tokens)]
        plain = torch_attention(q, layer.to_k(text), layer.to_v(text), layer.heads)
        added = uniid_attention(q, plain, people, None, layer.heads, rescaling)
        assert_near(plain + float(scale) * added, file.tensors[f"pre_out_proj.{case}"], f"{case} before to_out")
        out = cross_attention_layer(layer, x, text, None, UniIDTerm(people, float(scale), rescaling=rescaling))
        assert_near(out, file.expected()[case], case)

    return check, inputs


@pytest.mark.golden("uniid", "03_id_attention", "plain_")
def test_plain_attention(id_attention, golden_case):
    check, inputs = id_attention
    check(inputs["id_tokens"], f"plain_{golden_case}", golden_case, rescaling=False)


@pytest.mark.golden("uniid", "03_id_attention", "norm_")
def test_rescaled_attention(id_attention, golden_case):
    check, inputs = id_attention
    check(inputs["id_tokens"], f"norm_{golden_case}", golden_case, rescaling=True)


@pytest.mark.golden("uniid", "03_id_attention", "tiny_norm_")
def test_rescaling_where_one_row_is_zero(id_attention, golden_case):
    """The epsilon then counts in the other row too, whose norm is a few times larger."""
    check, inputs = id_attention
    check(inputs["id_tokens_tiny"], f"tiny_norm_{golden_case}", golden_case, rescaling=True)


@pytest.mark.golden("uniid", "03_id_attention", "zero_tokens_norm_")
def test_rescaling_zero_tokens(id_attention, golden_case):
    check, inputs = id_attention
    check(torch.zeros_like(inputs["id_tokens"]), f"zero_tokens_norm_{golden_case}", golden_case, rescaling=True)
