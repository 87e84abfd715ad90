"""Which part of a face each pixel shows: the parser, from a file to labels and composites (docs/pulid.md, 1.3, 7.1).

Letters: B pictures, H, W their sides. Pixels are RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .bisenet import BiSeNet, BiSeNetSizes, Operations
from .composite import NUM_LABELS, composite, label_map, parser_input
from .state_dicts import check_keys

_EXPECTED = (
    "Expected is parsing_bisenet.pth (53 MB) from the releases (v0.2.0) of https://github.com/xinntao/facexlib, in "
    "models/facexlib"
)
_UNUSED = ("conv_out16.", "conv_out32.")  # heads that only trained the network
_COUNTER = ".num_batches_tracked"  # of normalisations, unused outside training and not in every edition


class FaceParser(nn.Module):
    """The network with what comes before and after it. It stays in eval mode."""

    def __init__(self, network: BiSeNet) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def train(self, mode: bool = True) -> FaceParser:
        """Stay in eval mode whatever is asked: the statistics of its normalisations belong to the trained network."""
        return super().train(False)

    def labels(self, pixels: Tensor) -> Tensor:
        """The label of each pixel (B, 1, H, W) uint8, on the weights' device; see `composite.WHITENED`."""
        weight = next(self.parameters())
        return label_map(self.network(parser_input(pixels.to(weight.device, torch.float32)).to(weight.dtype)))

    def composite(self, pixels: Tensor) -> Tensor:
        """The person in grey on white (B, 3, H, W), in dtype and on the device of the pixels (B, 3, H, W)."""
        return composite(pixels, self.labels(pixels).to(pixels.device))

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Tensor], name: str = "the file", operations: Operations = nn
    ) -> FaceParser:
        """Build the parser that a flat dict of tensors describes and load it strictly; sizes are inferred.

        name: the file's, for messages. The result is on the CPU in float32, and frozen.
        Raises ValueError naming the file and the keys that are missing, unknown or of another shape.
        """
        given = {
            key.removeprefix("module."): tensor for key, tensor in state_dict.items() if not key.endswith(_COUNTER)
        }
        given = {key: tensor for key, tensor in given.items() if not key.startswith(_UNUSED)}
        sizes = _sizes(given, name)
        with torch.device("meta"):  # no random initialisation, which would take time and move the user's generator
            # Of torch.nn, since the host's layers may have no weights before loading.
            expected = {key: value for key, value in BiSeNet(sizes).state_dict().items() if not key.endswith(_COUNTER)}
            check_keys(expected, given, f"{name} is not a complete face parser", _EXPECTED)
            network = BiSeNet(sizes, operations)
        own = {key: tensor.to("cpu", torch.float32, copy=True) for key, tensor in given.items()}
        counters = {key: torch.tensor(0) for key in network.state_dict() if key.endswith(_COUNTER)}
        network.load_state_dict({**own, **counters}, assign=True)
        return cls(network.requires_grad_(False))


def _sizes(given: Mapping[str, Tensor], name: str) -> BiSeNetSizes:
    def outputs(key: str) -> int:
        return given[f"{key}.weight"].shape[0]

    try:
        sizes = BiSeNetSizes(
            stem=outputs("cp.resnet.conv1"),
            stages=tuple(outputs(f"cp.resnet.layer{number}.0.conv1") for number in (1, 2, 3, 4)),
            context=outputs("cp.arm16.conv.conv"),
            fusion=outputs("ffm.convblk.conv"),
            bottleneck=outputs("ffm.conv1"),
            head=outputs("conv_out.conv.conv"),
            classes=outputs("conv_out.conv_out"),
        )
    except KeyError as error:
        raise ValueError(f"{name} is not a face parser: the tensor {error} is missing. {_EXPECTED}") from error
    if sizes.classes != NUM_LABELS:
        raise ValueError(f"{name} parses {sizes.classes} classes, where faces have {NUM_LABELS}. {_EXPECTED}")
    return sizes
