from __future__ import annotations

import pytest
import torch
from likeness.faces.backbone import IRBackbone
from torch import nn


def _small(**changes) -> IRBackbone:
    """A narrow backbone with seeded weights and statistics."""
    torch.manual_seed(0)
    sizes = {"widths": (4, 6, 8, 10), "units": (1, 2, 3, 1), "embedding": 5, "input_size": 32} | changes
    backbone = IRBackbone(**sizes)
    for name, tensor in backbone.state_dict().items():
        if "running" in name:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return backbone


def test_golden_uniportrait_backbone(golden):
    file = golden("uniportrait", "backbone_ir")
    config, weights = file.metadata["config"], file.weights()
    assert file.cases()
    for case in file.cases():
        image, expected = file.inputs(case)["image"], file.expected(case)
        sized = IRBackbone(config["widths"], config["units"], config["embedding"], image.shape[-1])
        sized.load_state_dict(weights)
        backbones = [sized]
        if len(set(config["widths"])) == len(config["widths"]):  # else the tensors do not tell where a stage begins
            backbones.append(IRBackbone.from_state_dict(weights))
        for backbone in backbones:
            assert list(backbone.taps) == config["taps"]
            with torch.no_grad():
                maps, embedding = backbone.features(image), backbone.embed(image)
            _assert_close(embedding, expected["embedding"])
            for number, feature in enumerate(maps):
                _assert_close(feature, expected[f"feat{number}"])


def test_golden_uniportrait_face_embedding_taps(golden):
    """The same network at another depth, inside the file that covers the whole way from crop to tokens."""
    file = golden("uniportrait", "face_embedding")
    weights = file.weights("backbone.")
    if "output_layer.3.weight" not in weights:
        pytest.fail("the file's backbone has no output layer")
    backbone = IRBackbone.from_state_dict(weights)
    for case in file.cases():
        expected = file.expected(case)
        if "facerecog_image" in expected:
            with torch.no_grad():
                for number, feature in enumerate(backbone.features(expected["facerecog_image"])):
                    _assert_close(feature, expected[f"feat{number}"])
            return
    pytest.fail("no case of the file has recognition pictures")


def _assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Tolerance of the file: 1e-4 times the spread of the map, where that is above 1."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * max(1.0, expected.std().item()))


def test_default_is_the_released_ir_101():
    with torch.device("meta"):
        state = IRBackbone().state_dict()
    assert len(state) == 917 and sum(tensor.numel() for tensor in state.values()) == 65_220_569
    assert IRBackbone(widths=(2, 4, 6, 8)).taps == (2, 15, 45, 48)
    shortcuts = {key.split(".")[1] for key in state if "shortcut" in key}
    assert shortcuts == {"3", "16", "46"}
    assert state["output_layer.3.weight"].shape == (512, 25088)
    assert "output_layer.4.weight" not in state and "output_layer.4.num_batches_tracked" in state


@pytest.mark.parametrize("changes", [{}, {"input_size": 64, "embedding": 7}, {"units": (2, 1, 1, 2)}])
def test_sizes_are_inferred_from_the_tensors(changes):
    backbone = _small(**changes)
    again = IRBackbone.from_state_dict(backbone.state_dict())
    image = torch.randn(2, 3, backbone.input_size, backbone.input_size)
    torch.testing.assert_close(again.embed(image), backbone.embed(image), rtol=0, atol=0)
    assert again.taps == backbone.taps


def test_maps_halve_stage_by_stage():
    maps = _small().features(torch.zeros(3, 3, 32, 32))
    assert [tuple(feature.shape) for feature in maps] == [(3, 4, 16, 16), (3, 6, 8, 8), (3, 8, 4, 4), (3, 10, 2, 2)]


def test_training_mode_changes_nothing():
    backbone, image = _small(), torch.randn(4, 3, 32, 32)
    before = backbone.embed(image)
    statistics = {key: value.clone() for key, value in backbone.state_dict().items()}
    torch.testing.assert_close(backbone.train().embed(image), before, rtol=0, atol=0)
    assert not any(module.training for module in backbone.modules())
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, statistics[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_any_type_are_read_in_the_type_of_the_weights(dtype):
    backbone, image = _small(), torch.rand(1, 3, 32, 32) * 2 - 1
    assert backbone.embed(image.to(dtype)).dtype == torch.float32
    lower = _small().to(torch.bfloat16)
    got, expected = lower.embed(image), backbone.embed(image)
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(got.float(), expected).item() > 0.99


def test_layers_come_from_the_operations_namespace():
    class Conv2d(nn.Conv2d):
        pass

    class Linear(nn.Linear):
        pass

    class Operations:
        pass

    Operations.Conv2d, Operations.Linear = Conv2d, Linear
    backbone = IRBackbone.from_state_dict(_small().state_dict(), operations=Operations)
    assert all(type(module) is Conv2d for module in backbone.modules() if isinstance(module, nn.Conv2d))
    assert all(type(module) is Linear for module in backbone.modules() if isinstance(module, nn.Linear))


def test_layers_that_get_their_weights_on_loading_are_served():
    """ComfyUI's Linear has no weight before a state dict is loaded, on some systems."""

    class Linear(nn.Linear):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.weight = self.bias = None

        def _load_from_state_dict(self, state_dict, prefix, *_):
            self.weight, self.bias = (nn.Parameter(state_dict[prefix + name].clone()) for name in ("weight", "bias"))

    class Operations:
        Conv2d = nn.Conv2d

    Operations.Linear = Linear
    reference, image = _small(), torch.rand(1, 3, 32, 32)
    backbone = IRBackbone.from_state_dict(reference.state_dict(), operations=Operations)
    torch.testing.assert_close(backbone.embed(image), reference.embed(image), rtol=0, atol=0)


def test_loading_leaves_the_random_generator_alone_and_freezes():
    state = _small().state_dict()
    before = torch.get_rng_state()
    backbone = IRBackbone.from_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for key, tensor in backbone.state_dict().items():
        assert tensor.device.type == "cpu" and tensor.data_ptr() != state[key].data_ptr()
    halves = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    assert {parameter.dtype for parameter in IRBackbone.from_state_dict(halves).parameters()} == {torch.float32}


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(1, 3, 31, 32\)"):
        _small().features(torch.zeros(1, 3, 31, 32))


def _without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: _without(state, "output_layer.3.weight"), "output_layer.3.weight"),
        (lambda state: _without(state, "body.1.res_layer.2.num_batches_tracked"), "1 missing .body.1.res_layer.2.num_"),
        (lambda state: state | {"fc.weight": torch.zeros(1)}, r"1 unknown \(fc.weight\)"),
        (
            lambda state: state | {"input_layer.2.weight": torch.zeros(9)},
            r"input_layer.2.weight is \(9,\) instead of \(4,\)",
        ),
        (lambda state: {"weight": torch.zeros(3)}, "not a face backbone"),
        (lambda state: {key: value for key, value in state.items() if "shortcut" not in key}, "1 widths where 4"),
    ],
)
def test_incomplete_files_are_refused_by_key(change, message):
    with pytest.raises(ValueError, match=message):
        IRBackbone.from_state_dict(change(dict(_small().state_dict())))
