from __future__ import annotations

import pytest
import torch
from likeness.faces.composite import clip_input
from likeness.faces.eva_clip import EvaClip

SIZES = {"img_size": 56, "embed_dim": 64, "depth": 6, "num_heads": 1, "num_classes": 24}


@pytest.fixture(scope="module")
def timm_models():
    return pytest.importorskip("timm.models", exc_type=ImportError)


@pytest.fixture(scope="module")
def original(timm_models):
    """timm's own registered network at a small size, all weights random, norms and biases too."""
    torch.manual_seed(0)
    model = timm_models.eva.eva02_large_patch14_clip_336(**SIZES).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        parameter.data = 1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise
    return model


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def _released_names(key: str) -> str:
    for timm_name, released in (
        ("attn.q_proj.bias", "attn.q_bias"),
        ("attn.v_proj.bias", "attn.v_bias"),
        ("attn.norm.", "attn.inner_attn_ln."),
        ("mlp.norm.", "mlp.ffn_ln."),
        ("mlp.fc1_g.", "mlp.w1."),
        ("mlp.fc1_x.", "mlp.w2."),
        ("mlp.fc2.", "mlp.w3."),
    ):
        key = key.replace(timm_name, released)
    return key


@torch.inference_mode()
def test_golden_pulid_07_projection_and_hidden_states(golden, timm_models):
    """Tolerances of the file: 1e-5 of the largest value for hidden states, 1e-5 for the projection."""
    file = golden("pulid", "07_eva_clip_tiny")
    head_width = file.metadata["config"]["vision_cfg"]["head_width"]
    tower = EvaClip.from_state_dict(file.weights(), head_width=head_width)
    got, expected = tower(file.inputs()["image_normalised"]), file.expected()
    torch.testing.assert_close(got.projected, expected["projected_l2norm"], rtol=0, atol=1e-5)
    assert len(got.hidden) == 5
    for number, state in enumerate(got.hidden):
        wanted = expected[f"hidden.{number}"]
        torch.testing.assert_close(state, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@torch.inference_mode()
def test_the_tower_is_the_one_that_timm_registers(original, image):
    """Six blocks: the hidden states are the outputs of the first five."""
    states = []
    hooks = [block.register_forward_hook(lambda *call: states.append(call[2])) for block in original.blocks]
    projected = original(image)
    for hook in hooks:
        hook.remove()
    got = EvaClip.from_state_dict(original.state_dict())(image)
    torch.testing.assert_close(got.projected, projected / projected.norm(dim=-1, keepdim=True), rtol=0, atol=1e-6)
    for mine, theirs in zip(got.hidden, states[:5], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize("prefix", ["", "visual.", "visual.trunk.", "module.visual.", "state_dict.visual.trunk."])
@pytest.mark.parametrize("names", ["timm", "released"])
def test_every_edition_of_the_file_gives_the_same(original, image, prefix, names):
    """With a text tower and rotary constants beside it, where there is room for them."""
    state = original.state_dict()
    edition = {prefix + (_released_names(key) if names == "released" else key): value for key, value in state.items()}
    edition |= {f"{prefix}{place}rope.freqs_cos": torch.zeros(16, 64) for place in ("", "blocks.0.attn.")}
    if "visual." in prefix:
        start = prefix.partition("visual.")[0]
        edition |= {f"{start}text.cls_token": torch.zeros(1, 1, 9), f"{start}logit_scale": torch.zeros(())}
    expected = EvaClip.from_state_dict(state)(image)
    got = EvaClip.from_state_dict(edition)(image)
    torch.testing.assert_close((got.projected, got.hidden), (expected.projected, expected.hidden), rtol=0, atol=0)


@torch.inference_mode()
def test_rotary_constants_tell_the_width_of_a_head(golden, timm_models):
    file = golden("pulid", "07_eva_clip_tiny")
    config = file.metadata["config"]["vision_cfg"]
    constants = {f"visual.rope.freqs_{name}": torch.zeros(16, config["head_width"]) for name in ("cos", "sin")}
    tower = EvaClip.from_state_dict(file.weights() | constants)
    assert {block.attn.num_heads for block in tower.trunk.blocks} == {config["width"] // config["head_width"]}


@torch.inference_mode()
def test_a_batch_gives_what_its_pictures_give_alone(original, image):
    tower = EvaClip.from_state_dict(original.state_dict())
    together, alone = tower(image), [tower(one[None]) for one in image]
    torch.testing.assert_close(together.projected, torch.cat([one.projected for one in alone]))
    for number, state in enumerate(together.hidden):
        torch.testing.assert_close(state, torch.cat([one.hidden[number] for one in alone]), rtol=1e-5, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "agreement"), [(torch.float16, 0.9999), (torch.bfloat16, 0.999)])
def test_half_precision_points_the_same_way(original, image, dtype, agreement):
    state = original.state_dict()
    expected, got = EvaClip.from_state_dict(state)(image), EvaClip.from_state_dict(state, dtype=dtype)(image)
    for mine, theirs in zip((got.projected, *got.hidden), (expected.projected, *expected.hidden), strict=True):
        assert mine.dtype == dtype and torch.isfinite(mine).all()
        cosine = torch.cosine_similarity(mine.float().flatten(1), theirs.flatten(1))
        assert cosine.min() > agreement, cosine


@torch.inference_mode()
@pytest.mark.parametrize("antialias", [True, False])
def test_composites_are_resized_and_normalised(original, antialias):
    tower, composites = EvaClip.from_state_dict(original.state_dict()), torch.rand(1, 3, 100, 100)
    expected = tower(clip_input(composites, 56, antialias))
    torch.testing.assert_close(tower.see(composites, antialias).projected, expected.projected, rtol=0, atol=0)
    assert not torch.equal(tower.see(composites, not antialias).projected, expected.projected)


def test_loading_leaves_the_random_generator_alone_copies_and_freezes(original):
    state = original.state_dict()
    before = torch.get_rng_state()
    tower = EvaClip.from_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert {value.device.type for value in (*tower.parameters(), *tower.buffers())} == {"cpu"}
    for key, tensor in tower.trunk.state_dict().items():
        assert tensor.data_ptr() != state[key].data_ptr()


def test_pictures_of_another_size_are_refused(original, image):
    with pytest.raises(ValueError, match=r"reads pictures \(B, 3, 56, 56\), got \(2, 3, 55, 56\)"):
        EvaClip.from_state_dict(original.state_dict())(image[:, :, 1:])


def _without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"vision_model.post_layernorm.weight": torch.zeros(3)}, "is not an EVA02-CLIP vision tower"),
        (lambda state: {"visual.blocks.0.attn.qkv.weight": torch.zeros(3)}, "is another vision tower"),
        (lambda state: _without(state, "head.weight"), "is not a complete EVA02-CLIP vision tower: 'head.weight'"),
        (lambda state: _without(state, "blocks.3.norm1.bias"), r"complete .*1 missing \(blocks.3.norm1.bias\)"),
        (lambda state: state | {"blocks.0.gamma": torch.zeros(1)}, r"1 unknown \(blocks.0.gamma\)"),
        (
            lambda state: state | {"blocks.1.norm1.weight": torch.zeros(9)},
            r"blocks.1.norm1.weight is \(9,\) instead of \(64,\)",
        ),
        (
            lambda state: {key: value for key, value in state.items() if not key.startswith("blocks.5.")},
            r"5 blocks \(a multiple of 6\)",
        ),
        (lambda state: state | {"pos_embed": torch.zeros(1, 13, 64)}, "12 patches .a square number is needed"),
    ],
)
def test_files_that_are_no_such_tower_are_named(original, change, message):
    expected = f"model.pt .*{message}.*EVA02_CLIP_L_336_psz14_s6B.pt.*QuanSun/EVA-CLIP.*models/clip_vision"
    with pytest.raises(ValueError, match=expected):
        EvaClip.from_state_dict(change(original.state_dict()), "model.pt")
