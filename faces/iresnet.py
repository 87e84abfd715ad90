"""insightface's iresnet, the ArcFace backbone that UniID reads (docs/uniid.md, 1.2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from .backbone import IRBackbone

# The base class' names for the parts of a network and of a block, and insightface's.
_NETWORK = {
    "input_layer.0": "conv1",
    "input_layer.1": "bn1",
    "input_layer.2": "prelu",
    "output_layer.0": "bn2",
    "output_layer.3": "fc",
    "output_layer.4": "features",
}
_BLOCK = {
    "res_layer.0": "bn1",
    "res_layer.1": "conv1",
    "res_layer.2": "bn2",
    "res_layer.3": "prelu",
    "res_layer.4": "conv2",
    "res_layer.5": "bn3",
    "shortcut_layer.0": "downsample.0",
    "shortcut_layer.1": "downsample.1",
}


class IResNet(IRBackbone):
    """iresnet100 by default: `IRBackbone` with insightface's names, and a convolved shortcut in every stage."""

    EXPECTED: ClassVar[str] = (
        "Expected is backbone.pth of insightface's glint360k_cosface_r100_fp16_0.1, or an edition with the same names"
    )
    HEAD: ClassVar[str] = "fc.weight"
    CONVOLVES_EVERY_STAGE: ClassVar[bool] = True
    AFFINE_EMBEDDING: ClassVar[bool] = True

    @staticmethod
    def _stages(state_dict: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
        blocks = {match.groups() for key in state_dict if (match := re.match(r"(layer\d)\.(\d+)\.", key))}
        units = Counter(stage for stage, _ in blocks)
        stages = sorted(units)
        widths = [state_dict[f"{stage}.0.conv2.weight"].shape[0] for stage in stages]
        return widths, [units[stage] for stage in stages]

    def _released_name(self, key: str) -> str:
        section, *rest = key.split(".")
        if section != "body":
            part, leaf = key.rsplit(".", 1)
            return f"{_NETWORK[part]}.{leaf}"
        number, part, index, leaf = rest
        stage = next(stage for stage, last in enumerate(self.taps) if int(number) <= last)
        first = 0 if stage == 0 else self.taps[stage - 1] + 1
        return f"layer{stage + 1}.{int(number) - first}.{_BLOCK[f'{part}.{index}']}.{leaf}"
