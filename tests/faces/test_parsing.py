from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from likeness.faces.bisenet import BiSeNet, BiSeNetSizes
from likeness.faces.parsing import FaceParser
from torch import nn

TINY = BiSeNetSizes(stem=4, stages=(4, 6, 8, 10), context=6, fusion=8, bottleneck=2, head=5)


def _formula(salt: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """n(key, shape) of the golden README."""
    random = np.random.RandomState(zlib.crc32(f"{salt}/{key}".encode()))
    return random.standard_normal(shape).astype(np.float32)


def _formula_weights(shapes: dict[str, tuple[int, ...]], salt: str) -> dict[str, torch.Tensor]:
    """Golden 12's weights: they are not stored, but defined by key and shape."""
    weights = {}
    for key, shape in shapes.items():
        n = _formula(salt, f"bisenet.{key}", shape)
        if key.endswith("num_batches_tracked"):
            n = np.zeros(shape, np.int64)
        elif key.endswith("running_mean"):
            n = 0.1 * n
        elif key.endswith("running_var"):
            n = 1 + 0.2 * np.abs(n)
        elif len(shape) == 1:
            n = 1 + 0.1 * n if key.endswith("weight") else 0.05 * n
        else:
            n = n * np.sqrt(2 / np.prod(shape[1:]))
        weights[key] = torch.from_numpy(np.asarray(n, np.int64 if n.dtype.kind == "i" else np.float32))
    return weights


def _shapes(sizes: BiSeNetSizes) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in BiSeNet(sizes).state_dict().items()}


@pytest.fixture(scope="module")
def reference(golden):
    return golden("pulid", "12_bisenet_formula")


@pytest.fixture(scope="module")
def full_size(reference) -> dict[str, torch.Tensor]:
    return _formula_weights(_shapes(BiSeNetSizes()), reference.metadata["config"]["salt"])


@pytest.fixture
def tiny() -> dict[str, torch.Tensor]:
    return _formula_weights(_shapes(TINY), "tiny")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_golden_pulid_12_logits_and_labels(reference, full_size):
    """Tolerances of the file: 1e-4 of the largest logit, 99.9 % of the labels."""
    parser, expected = FaceParser.from_state_dict(full_size), reference.expected()
    config = reference.metadata["config"]
    image = torch.from_numpy(_formula(config["salt"], "in.image", (1, 3, *config["hw"])))
    logits = parser.network(image)
    reach = float(expected["logits"].abs().max())
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-4 * reach)
    assert (logits.argmax(1, keepdim=True) == expected["labels"]).float().mean() >= 0.999


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (75, 50), (33, 97)])
def test_the_network_is_facexlibs(full_size, size):
    """Its own class takes the same file, which has two heads more."""
    library = pytest.importorskip("facexlib.parsing.bisenet", exc_type=ImportError).BiSeNet(19).eval()
    extra = {key: value for key, value in library.state_dict().items() if key.startswith(("conv_out16", "conv_out32"))}
    library.load_state_dict({**full_size, **extra})
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = library(image)[0]
    got = FaceParser.from_state_dict({**full_size, **extra}).network(image)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_labels_come_from_normalised_pixels(tiny, pixels):
    parser = FaceParser.from_state_dict(tiny)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    logits = parser.network((pixels - mean[:, None, None]) / std[:, None, None])
    labels = parser.labels(pixels)
    assert labels.shape == (3, 1, 64, 48) and labels.dtype == torch.uint8
    torch.testing.assert_close(labels[:, 0].long(), logits.argmax(1))
    assert len(labels.unique()) > 1


def test_a_batch_gives_what_its_pictures_give_alone(tiny, pixels):
    parser = FaceParser.from_state_dict(tiny)
    torch.testing.assert_close(parser.composite(pixels), torch.cat([parser.composite(one[None]) for one in pixels]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parses_nearly_the_same(tiny, pixels, dtype):
    parser = FaceParser.from_state_dict(tiny)
    expected = parser.labels(pixels)
    halves = parser.to(dtype)
    assert (halves.labels(pixels) == expected).float().mean() > 0.9
    assert halves.composite(pixels).dtype == torch.float32


def test_other_editions_of_the_file_load(tiny, pixels):
    """Without the counters, in half precision, and with the prefix of parallel training."""
    expected = FaceParser.from_state_dict(tiny).network(pixels)
    edition = {f"module.{key}": value for key, value in tiny.items() if "num_batches" not in key}
    torch.testing.assert_close(FaceParser.from_state_dict(edition).network(pixels), expected)
    parser = FaceParser.from_state_dict({key: value.half() for key, value in edition.items()})
    assert {parameter.dtype for parameter in parser.parameters()} == {torch.float32}


def test_loading_leaves_the_random_generator_alone_copies_and_freezes(tiny):
    before = torch.get_rng_state()
    parser = FaceParser.from_state_dict(tiny).train()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in parser.parameters())
    assert not any(module.training for module in parser.modules())
    for key, tensor in parser.network.state_dict().items():
        assert tensor.device.type == "cpu" and tensor.data_ptr() != tiny[key].data_ptr()


def test_layers_that_have_no_weights_before_loading_are_filled(tiny, pixels):
    """ComfyUI's layers may be like that."""

    class Conv2d(nn.Conv2d):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            self.weight = None

        def _load_from_state_dict(self, state_dict, prefix, *_):
            self.weight = nn.Parameter(state_dict[prefix + "weight"].clone(), requires_grad=False)

    class Operations:
        pass

    Operations.Conv2d = Conv2d
    expected = FaceParser.from_state_dict(tiny).network(pixels)
    torch.testing.assert_close(FaceParser.from_state_dict(tiny, operations=Operations).network(pixels), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"weight": torch.zeros(3)}, "parser.pth is not a face parser: the tensor .* is missing"),
        (
            lambda state: {key: value for key, value in state.items() if key != "cp.conv_avg.bn.weight"},
            r"parser.pth is not a complete face parser: tensors 1 missing \(cp.conv_avg.bn.weight\)",
        ),
        (lambda state: state | {"fc.weight": torch.zeros(1)}, r"1 unknown \(fc.weight\)"),
        (
            lambda state: state | {"cp.resnet.bn1.weight": torch.zeros(9)},
            r"cp.resnet.bn1.weight is \(9,\) instead of \(4,\)",
        ),
        (
            lambda state: state | {"conv_out.conv_out.weight": torch.zeros(5, 5, 1, 1)},
            "parser.pth parses 5 classes, where faces have 19",
        ),
    ],
)
def test_files_that_are_no_parser_are_named(tiny, change, message):
    with pytest.raises(ValueError, match=f"{message}.*parsing_bisenet.pth.*github.com/xinntao/facexlib.*models/"):
        FaceParser.from_state_dict(change(tiny), "parser.pth")
