"""PuLID's networks against the tensors of the published implementation."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from likeness.adapters.attention import torch_attention
from likeness.adapters.attention_layer import cross_attention_layer
from likeness.adapters.flux_attention import FluxAttentionSizes, FluxCrossAttention, folded_logits, folded_output
from likeness.adapters.id_encoder import IDEncoder, IDEncoderSizes
from likeness.adapters.id_former import IDFormer, IDFormerSizes
from likeness.adapters.projection import TokenProjection, with_zero_tokens
from likeness.adapters.pulid_attention import FORMS, PuLIDTerm, pulid_attention
from likeness.adapters.references import person_tokens

TOLERANCE = 1e-5
DEEP = 2e-5  # 02 and 11, the deeper nets


def assert_near(actual, expected, what, tolerance=TOLERANCE):
    assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance, f"{what}: {difference:.2e} > {tolerance}"


def hidden_states(inputs, prefix):
    return [inputs[f"{prefix}.vit_hidden.{scale}"] for scale in range(5)]


@pytest.fixture
def encoder_v1(golden):
    file = golden("pulid", "01_id_encoder_v1")
    config = file.metadata["config"]
    context, num_tokens, vit = config["context_dim"], config["num_token"], config["vit_dim"]
    hidden = (min(context * num_tokens // 4, 1024), min(context * num_tokens // 2, 1024))
    encoder = IDEncoder(IDEncoderSizes(config["width"], vit, hidden, (vit, vit), num_tokens, context))
    encoder.load_state_dict(file.weights("id_adapter."))
    return file, encoder.requires_grad_(False)


def test_id_encoder_v1(encoder_v1):
    file, encoder = encoder_v1
    inputs, expected = file.inputs(), file.expected()
    for case, (batch, tokens) in file.metadata["config"]["cases"].items():
        id_cond, hidden = inputs[f"{case}.id_cond"], hidden_states(inputs, case)
        assert hidden[0].shape[:2] == (batch, tokens)
        assert_near(encoder(id_cond, hidden), expected[f"{case}.id_embedding"], case)
        nobody = encoder(torch.zeros_like(id_cond), [torch.zeros_like(state) for state in hidden])
        assert_near(nobody, expected[f"{case}.uncond_id_embedding"], f"{case} uncond")
        assert nobody.abs().max() > 0.1


def test_v1_references_are_encoded_alone_and_appended(encoder_v1):
    """The published application joins the tokens of its photos, here those of the rows of one case."""
    file, encoder = encoder_v1
    config, inputs, expected = file.metadata["config"], file.inputs(), file.expected()
    case, _ = max(config["cases"].items(), key=lambda item: item[1])  # the one with most rows
    photos, nobody = expected[f"{case}.id_embedding"], expected[f"{case}.uncond_id_embedding"]
    assert len(photos) > 1
    arguments = encoder, inputs[f"{case}.id_cond"], hidden_states(inputs, case)
    for joining, kept in (("published", config["num_token"]), ("all tokens", photos.shape[1])):
        tokens = person_tokens(*arguments, joining)
        for half, rows in (("cond", photos), ("uncond", nobody)):
            joined = torch.cat([rows[0], *(row[:kept] for row in rows[1:])])
            assert_near(tokens[half], joined, f"{joining} {half}")
    assert_near(person_tokens(*arguments, "mean")["cond"], photos.mean(0), "mean")


@pytest.fixture
def id_former(golden):
    file = golden("pulid", "02_id_former")
    config = file.metadata["config"]
    vit = config["vit_dim"]
    names = ("dim", "heads", "dim_head", "num_queries", "output_dim", "ff_mult")
    former = IDFormer(
        IDFormerSizes(
            id_dim=config["id_dim"],
            vit_dim=vit,
            embedding_hidden=(vit, vit),
            mapping_hidden=(vit, vit),
            num_id_tokens=config["num_id_token"],
            **{name: config[name] for name in names},
        )
    )
    assert len(former.layers) == config["depth"]
    former.load_state_dict(file.weights(config["prefix"]))
    return file, former.requires_grad_(False)


def photos_of(inputs, number):
    """The first photos of file 02: id_cond (B, number, E), and five hidden states (B, number, tokens, W)."""
    photos = [f"img{photo}" for photo in range(number)]
    states = zip(*(hidden_states(inputs, photo) for photo in photos), strict=True)
    return torch.stack([inputs[f"{photo}.id_cond"] for photo in photos], dim=1), [torch.stack(s, 1) for s in states]


def test_id_former(id_former):
    file, former = id_former
    inputs, expected = file.inputs(), file.expected()
    for number in file.metadata["config"]["images"]:
        id_cond, hidden = photos_of(inputs, number)
        tokens = former(id_cond, [state.flatten(1, 2) for state in hidden])
        assert_near(tokens, expected[f"id_embedding.{number}img"], f"{number} photos", DEEP)
    id_cond, hidden = photos_of(inputs, 1)
    one, states = id_cond[:, 0], [state[:, 0] for state in hidden]
    assert_near(former(one, states), expected["id_embedding.1img_2d_input"], "2-D", DEEP)
    nobody = former(torch.zeros_like(one), [torch.zeros_like(state) for state in states])
    assert_near(nobody, expected["uncond_id_embedding"], "nobody", DEEP)


def test_id_former_reads_references_together(id_former):
    """As the host hands them over: the photos of one person, row by row."""
    file, former = id_former
    inputs, expected = file.inputs(), file.expected()
    number = max(file.metadata["config"]["images"])
    id_cond, hidden = photos_of(inputs, number)
    for row in range(len(id_cond)):
        tokens = person_tokens(former, id_cond[row], [state[row] for state in hidden])
        assert_near(tokens["cond"], expected[f"id_embedding.{number}img"][row], f"{number} photos", DEEP)
        assert_near(tokens["uncond"], expected["uncond_id_embedding"][row], "nobody", DEEP)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_sdxl_id_attention(golden, plain_attention, form):
    file = golden("pulid", "03_sdxl_id_attention")
    config, inputs, expected = file.metadata["config"], file.inputs(), file.expected()
    layer = plain_attention(config["query_dim"], config["ctx_dim"], config["heads"])
    layer.load_state_dict(file.weights("attn2."))
    projection = TokenProjection(config["query_dim"], config["ctx_dim"])
    weights = file.weights("id_adapter_attn_layers.1.")
    projection.load_state_dict({key.removeprefix("id_"): value for key, value in weights.items()})
    x, text = inputs["hidden_states"], inputs["encoder_hidden_states"]
    q = layer.to_q(x)
    plain = torch_attention(q, layer.to_k(text), layer.to_v(text), layer.heads)
    assert_near(plain, expected["no_id.before_to_out"], "no id")
    assert_near(cross_attention_layer(layer, x, text), expected["no_id.out"], "no id")
    cases = [(z, scale) for z in config["num_zero"] for scale in config["scales"]]
    assert len(cases) * len(FORMS) * 2 + 2 == len(expected)  # each before to_out and behind it, and without identity
    for num_zero, scale in cases:
        case = f"{form}.nz{num_zero}.s{scale}"
        kv = with_zero_tokens(projection(inputs["id_embedding"]), num_zero)
        term = pulid_attention(q, plain, [kv], None, layer.heads, form)
        assert_near(plain + scale * term, expected[f"{case}.before_to_out"], case)
        out = cross_attention_layer(layer, x, text, None, PuLIDTerm([kv], form, scale))
        assert_near(out, expected[f"{case}.out"], case)


@torch.no_grad()
def test_flux_block(golden):
    file = golden("pulid", "04_flux_ca")
    config = file.metadata["config"]
    sizes = FluxAttentionSizes(config["dim"], config["kv_dim"], config["heads"], config["dim_head"])
    block = FluxCrossAttention(sizes)
    block.load_state_dict(file.weights("pulid_ca.0."))
    folded = block.fold(file.inputs()["id_embedding"][:, None])
    added = folded_output(folded_logits(file.inputs()["img_tokens"], folded), folded, None)
    assert_near(added, file.expected()["ca_out"], "ca_out")


class Formula:
    """Weights and inputs that are defined by their names, in the words of the reference files' README."""

    def __init__(self, file):
        self.salt = file.metadata["config"]["salt"]

    def normal(self, key, shape):
        generator = np.random.RandomState(zlib.crc32(f"{self.salt}/{key}".encode()))
        return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))

    def filled(self, module, prefix):
        state = {key: self._parameter(prefix + key, tuple(value.shape)) for key, value in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
        return module.requires_grad_(False)

    def _parameter(self, key, shape):
        normal = self.normal(key, shape)
        if len(shape) == 1:
            return 1 + 0.1 * normal if key.endswith("weight") else 0.05 * normal
        if key.endswith("latents"):
            return 0.1 * normal
        fan_in = shape[0] if key.endswith("proj_out") else int(np.prod(shape[1:]))
        return normal / fan_in**0.5

    def photo(self, name):
        id_cond = self.normal(f"{name}.id_cond", (1, 1280))
        return id_cond, [self.normal(f"{name}.vit_hidden.{scale}", (1, 577, 1024)) for scale in range(5)]


def test_full_width_id_encoder_v1(golden):
    file = golden("pulid", "11_full_width_formula")
    formula, expected = Formula(file), file.expected()
    encoder = formula.filled(IDEncoder(device="meta"), "id_encoder_v1.")
    assert_near(encoder.body[0].weight[0, :8], expected["probe.id_encoder_v1.body.0.weight[0,:8]"], "probe", 1e-7)
    assert_near(encoder(*formula.photo("in")), expected["id_encoder_v1.id_embedding"], "v1", DEEP)


def test_full_width_id_former(golden):
    file = golden("pulid", "11_full_width_formula")
    formula, expected = Formula(file), file.expected()
    former = formula.filled(IDFormer(device="meta"), "id_former.")
    (first, hidden), (second, more) = formula.photo("in"), formula.photo("in2")
    assert_near(former(first, hidden), expected["id_former.id_embedding"], "one photo", DEEP)
    joined = [torch.cat(states, dim=1) for states in zip(hidden, more, strict=True)]
    tokens = former(torch.stack([first, second], dim=1), joined)
    assert_near(tokens, expected["id_former.id_embedding_2img"], "two photos", DEEP)


def test_full_width_flux_block(golden):
    file = golden("pulid", "11_full_width_formula")
    formula, expected = Formula(file), file.expected()
    block = formula.filled(FluxCrossAttention(device="meta"), "pulid_ca.")
    folded = block.fold(formula.normal("in.id_tokens", (1, 32, 2048))[:, None])
    image = formula.normal("in.img_tokens", tuple(expected["pulid_ca.out"].shape))
    assert_near(folded_output(folded_logits(image, folded), folded, None), expected["pulid_ca.out"], "block", DEEP)
