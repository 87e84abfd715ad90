"""insightface's iresnet: the published numbers, the released keys, and what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from likeness.faces.backbone import IRBackbone
from likeness.faces.iresnet import IResNet

TOLERANCE = 1e-5  # of the largest value, where that is above 1


def small(**changes) -> IResNet:
    """A narrow network with seeded weights and statistics."""
    torch.manual_seed(0)
    sizes = {"widths": (4, 6, 6, 10), "units": (1, 2, 3, 1), "embedding": 5, "input_size": 32} | changes
    backbone = IResNet(**sizes)
    for name, tensor in backbone.state_dict().items():
        if "running" in name:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return backbone


def spread(key: str, shape: torch.Size, residual_gain: float) -> tuple[float, float]:
    """Mean and amplitude of one of the reference file's tensors, in the words of its README."""
    if len(shape) > 1:
        return 0.0, math.sqrt(3 / math.prod(shape[1:]))
    if key.endswith("prelu.weight"):
        return 0.25, 0.05
    if key == "features.weight":
        return 1.0, 0.0
    if key.endswith("weight"):
        return (residual_gain if key.endswith("bn3.weight") else 1.0), 0.1
    return (1.0 if key.endswith("running_var") else 0.0), (0.0 if key.endswith("num_batches_tracked") else 0.1)


@pytest.mark.parametrize("network", ["trunc", "full"])
def test_golden_uniid_06_iresnet(golden, network):
    file = golden("uniid", "06_iresnet")
    config = file.metadata["config"]
    with torch.device("meta"):
        released = IResNet(units=config[f"{network}_layers"]).released_form()
    shapes = {key: tensor.shape for key, tensor in released.items()}
    state = {key: file.formula(key, shape, *spread(key, shape, config["res_gain"])) for key, shape in shapes.items()}
    for key, first in file.part("weightcheck.").items():
        assert torch.equal(state[key].flatten()[: len(first)], first), key
    with torch.no_grad():
        seen = IResNet.from_state_dict(state).recognise(file.part("inputs/")["image"])
    expected = file.part(f"{network}.")
    assert len(expected) >= 5
    for name, value in expected.items():
        got = part_of(name, seen)
        assert got.shape == value.shape, name
        assert (got - value).abs().max() <= TOLERANCE * max(1.0, value.abs().max()), name


def part_of(name: str, seen) -> torch.Tensor:
    """ "output", or "hidden_2" with "_first8" (channels) or "_ch_mean" (over the places)."""
    if name == "output":
        return seen.embedding
    level, first, mean = re.fullmatch(r"hidden_(\d)(?:_first(\d+))?(_ch_mean)?", name).groups()
    feature = seen.maps[int(level)][:, : int(first) if first else None]
    return feature.mean(dim=(2, 3)) if mean else feature


def test_default_is_the_released_iresnet100():
    with torch.device("meta"):
        backbone = IResNet()
    state = backbone.released_form()
    assert len(state) == 925 and sum(tensor.numel() for tensor in state.values()) == 65_225_946
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 65_156_160
    for key, shape in {
        "conv1.weight": (64, 3, 3, 3),
        "prelu.weight": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.0.downsample.0.weight": (64, 64, 1, 1),
        "layer1.2.conv2.weight": (64, 64, 3, 3),
        "layer2.12.prelu.weight": (128,),
        "layer3.0.downsample.1.running_var": (256,),
        "layer3.29.bn1.bias": (256,),
        "layer4.0.conv1.weight": (512, 256, 3, 3),
        "layer4.2.bn3.num_batches_tracked": (),
        "bn2.running_mean": (512,),
        "fc.weight": (512, 25088),
        "features.weight": (512,),
    }.items():
        assert tuple(state[key].shape) == shape
    assert sum("downsample.0" in key for key in state) == 4 and "layer2.1.downsample.0.weight" not in state


@pytest.mark.parametrize("changes", [{}, {"input_size": 64, "embedding": 7}, {"units": (2, 1, 1, 2)}])
def test_files_come_back_as_they_were(changes):
    """Sizes are read off the tensors, also where two stages are equally wide."""
    backbone = small(**changes)
    again = IResNet.from_state_dict(backbone.released_form())
    assert (again.widths, again.units, again.input_size) == (backbone.widths, backbone.units, backbone.input_size)
    image = torch.randn(2, 3, backbone.input_size, backbone.input_size)
    seen, expected = again.recognise(image), backbone.recognise(image)
    assert torch.equal(seen.embedding, expected.embedding) and torch.equal(seen.embedding, again.embed(image))
    assert all(torch.equal(*pair) for pair in zip(seen.maps, again.features(image), strict=True))
    assert not again.train().training and not any(value.requires_grad for value in again.parameters())


def test_half_precision_files_compute_in_float32():
    state = small().released_form()
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    backbone = IResNet.from_state_dict(halves)
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    assert backbone.embed(torch.zeros(1, 3, 32, 32, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.weight"), r"'fc\.weight' is missing.*Expected is backbone\.pth of insightface"),
        (lambda state: state.pop("layer2.1.bn3.weight"), r"not a complete.*1 missing \(layer2\.1\.bn3\.weight\)"),
        (lambda state: state.pop("layer1.0.conv2.weight"), r"'layer1\.0\.conv2\.weight' is missing"),
        (lambda state: state.update({"x": torch.zeros(1)}), r"1 unknown \(x\)"),
        (lambda state: state.update({"features.bias": torch.zeros(6)}), r"features\.bias is \(6,\) instead of \(5,\)"),
        (lambda state: [state.pop(key) for key in list(state) if key.startswith("layer4")], "3 widths where 4"),
    ],
)
def test_incomplete_files_are_refused_by_their_own_keys(change, message):
    state = small().released_form()
    change(state)
    with pytest.raises(ValueError, match=message):
        IResNet.from_state_dict(state)


def test_the_families_backbones_are_told_apart():
    with torch.device("meta"):
        curricular = IRBackbone().state_dict()
    with pytest.raises(ValueError, match=r"not a face backbone.*glint360k_cosface_r100_fp16_0\.1"):
        IResNet.from_state_dict(curricular)
    with pytest.raises(ValueError, match="not a face backbone.*glint360k_curricular_face"):
        IRBackbone.from_state_dict(small().released_form())
