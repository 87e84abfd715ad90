"""Face-recognition backbones: the improved residual network of CurricularFace and its family (spec, section 10).

Letters: B pictures, C width of a stage. Inputs are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .state_dicts import check_keys

Operations = Any  # a namespace with Conv2d and Linear: torch.nn, or ComfyUI's

_NUM_STAGES = 4
_Backbone = TypeVar("_Backbone", bound="IRBackbone")


class Recognition(NamedTuple):
    """What a backbone sees in B pictures: vectors (B, embedding), not normalised, and the maps of `features`."""

    embedding: Tensor
    maps: list[Tensor]


class IRBlock(nn.Module):
    """One residual unit: BN, 3x3, BN, PReLU, 3x3 with the stride, BN, plus a shortcut; no activation after the sum.

    The shortcut is plain subsampling, or if `convolved` a 1x1 convolution with BN.
    """

    def __init__(self, in_width: int, width: int, stride: int, convolved: bool, operations: Operations = nn) -> None:
        super().__init__()
        self.stride = stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_width),
            operations.Conv2d(in_width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            operations.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut_layer = None
        if convolved:
            conv = operations.Conv2d(in_width, width, 1, stride=stride, bias=False)
            self.shortcut_layer = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.shortcut_layer is None else self.shortcut_layer(x)
        return self.res_layer(x) + shortcut


class IRBackbone(nn.Module):
    """IR network with four stages, each beginning with a block of stride 2; IR-101 is the default.

    widths, units: per stage. embedding: length of the identity vector. input_size: side of the square input, a
    multiple of 16. Parameter names are those of the released file. It stays in eval mode, in training too: the
    running statistics of its normalisations belong to the pretrained network.
    """

    EXPECTED: ClassVar[str] = (
        "Expected is the flat dict of glint360k_curricular_face_r101_backbone.bin, or one with the same names"
    )
    HEAD: ClassVar[str] = "output_layer.3.weight"  # of the released file: maps to identity vector
    # In what members of the family differ: which blocks have a convolved shortcut, those that begin a stage or only
    # those that change the width; and whether the last normalisation has weights.
    CONVOLVES_EVERY_STAGE: ClassVar[bool] = False
    AFFINE_EMBEDDING: ClassVar[bool] = False

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        units: Sequence[int] = (3, 13, 30, 3),
        embedding: int = 512,
        input_size: int = 112,
        operations: Operations = nn,
    ) -> None:
        super().__init__()
        self.widths, self.units = tuple(widths), tuple(units)
        self.input_size = input_size
        self.taps = tuple(sum(units[: stage + 1]) - 1 for stage in range(len(units)))
        self.input_layer = nn.Sequential(
            operations.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        blocks, in_width = [], widths[0]
        for width, num_blocks in zip(widths, units, strict=True):
            for number in range(num_blocks):
                convolved = in_width != width or (self.CONVOLVES_EVERY_STAGE and number == 0)
                blocks.append(IRBlock(in_width, width, 2 if number == 0 else 1, convolved, operations))
                in_width = width
        self.body = nn.Sequential(*blocks)
        side = input_size // 2 ** len(units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(in_width),
            nn.Dropout(0.4),
            nn.Flatten(),
            operations.Linear(in_width * side * side, embedding),
            nn.BatchNorm1d(embedding, affine=self.AFFINE_EMBEDDING),
        )
        self.eval()

    def train(self, mode: bool = True) -> IRBackbone:
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """The maps after the last block of each stage, finest first.

        image: (B, 3, input_size, input_size), RGB in [-1, 1], any float type. Returns (B, C, side, side) in the type
        of the weights with side = input_size / 2, / 4, / 8, / 16.
        Raises ValueError for a picture of another size.
        """
        self._check(image)
        x = self.input_layer(image.to(next(self.parameters()).dtype))
        maps = []
        for number, block in enumerate(self.body):
            x = block(x)
            if number in self.taps:
                maps.append(x)
        return maps

    def recognise(self, image: Tensor) -> Recognition:
        """Vectors and maps of one run; the input is that of `features`."""
        maps = self.features(image)
        return Recognition(self.output_layer(maps[-1]), maps)

    def embed(self, image: Tensor) -> Tensor:
        """The identity vector (B, embedding), not normalised; the input is that of `features`."""
        return self.recognise(image).embedding

    def forward(self, image: Tensor) -> Tensor:
        return self.embed(image)

    def _check(self, image: Tensor) -> None:
        side = self.input_size
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise ValueError(f"the face backbone reads pictures (B, 3, {side}, {side}), got {tuple(image.shape)}")

    def released_form(self) -> dict[str, Tensor]:
        """The tensors under the names of the released file."""
        return {self._released_name(key): tensor for key, tensor in self.state_dict().items()}

    @classmethod
    def from_state_dict(
        cls: type[_Backbone], state_dict: Mapping[str, Tensor], operations: Operations = nn
    ) -> _Backbone:
        """Build the backbone that a flat dict of tensors describes and load it strictly; sizes are inferred.

        The result is on the CPU in float32, and frozen.
        Raises ValueError naming the keys that are missing, unknown or of another shape.
        """
        sizes = cls._sizes(state_dict)
        with torch.device("meta"):  # no random initialisation, which would take time and move the user's generator
            twin = cls(**sizes)  # of torch.nn: the host's layers may appear on loading only
            backbone = cls(**sizes, operations=operations)
        check_keys(twin.released_form(), state_dict, "not a complete face backbone", cls.EXPECTED)
        given = {key: state_dict[twin._released_name(key)] for key in twin.state_dict()}
        own = {key: tensor.to("cpu", _float32_or_integer(tensor), copy=True) for key, tensor in given.items()}
        backbone.load_state_dict(own, assign=True)
        return backbone.requires_grad_(False)

    @classmethod
    def _sizes(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Constructor arguments of the network whose tensors these are."""
        try:
            widths, units = cls._stages(state_dict)
            embedding, inputs = state_dict[cls.HEAD].shape
        except KeyError as error:
            raise ValueError(f"not a face backbone: the tensor {error} is missing. {cls.EXPECTED}") from error
        if len(units) != _NUM_STAGES or 0 in units:
            raise ValueError(f"not a face backbone: blocks of {len(units)} widths where 4 are expected. {cls.EXPECTED}")
        side = round((inputs / widths[-1]) ** 0.5)
        return {"widths": widths, "units": units, "embedding": embedding, "input_size": side * 2**_NUM_STAGES}

    @staticmethod
    def _stages(state_dict: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
        """Widths and numbers of blocks of the stages; a changed width begins a new one."""
        num_blocks = len({key.split(".")[1] for key in state_dict if key.startswith("body.")})
        widths, units = [state_dict["input_layer.0.weight"].shape[0]], [0]
        for number in range(num_blocks):
            if f"body.{number}.shortcut_layer.0.weight" in state_dict:
                widths.append(state_dict[f"body.{number}.res_layer.4.weight"].shape[0])
                units.append(0)
            units[-1] += 1
        return widths, units

    def _released_name(self, key: str) -> str:
        """What the released file calls one of this module's tensors."""
        return key


def _float32_or_integer(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
