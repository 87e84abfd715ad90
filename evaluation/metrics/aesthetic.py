"""LAION-Aes: LAION's aesthetic predictor on CLIP ViT-L/14 embeddings (spec, section 12), with a local head."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..fingerprints import file_fingerprint
from ..weights import read_state_dict

DEFINITION = "LAION's aesthetic predictor on the CLIP embedding of the picture; about 1 to 10, higher is better"


class AestheticHead:
    """A linear head ("weight", "bias"), or the published stack of linear layers ("layers.0.weight", ...).

    The stack has no activations, so it is one linear map too. Raises ValueError for a file that is missing or another
    one, and for a head that does not fit to CLIP embeddings of length `width`.
    """

    def __init__(self, path: str | Path, width: int) -> None:
        self.path = Path(path)
        self.fingerprint = file_fingerprint(path)
        self._layers = _layers(self.path)
        inputs = self._layers[0][0].shape[1]
        if inputs != width:
            raise ValueError(
                f"the aesthetic head {path} reads embeddings of length {inputs}, but the CLIP model gives {width}; "
                "take the head that was trained on this CLIP"
            )

    def describe(self) -> dict[str, str]:
        """What results say about it; JSON values."""
        return {"file": self.path.name, "sha256": self.fingerprint}

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores (B,) of CLIP image embeddings (B, d) of unit length."""
        values = embeddings
        for weight, bias in self._layers:
            values = values @ weight.T + bias
        return values[:, 0]


def _layers(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    weights = {key: value.double().numpy() for key, value in read_state_dict(path).items()}
    prefixes = sorted(
        (key.removesuffix("weight") for key in weights if key.endswith("weight")),
        key=lambda prefix: [int(number) for number in re.findall(r"\d+", prefix)],
    )
    try:
        layers = [(weights[prefix + "weight"], weights[prefix + "bias"]) for prefix in prefixes]
    except KeyError as error:
        raise ValueError(f"{path} is no aesthetic head: {error} is missing") from error
    widths = [layer[0].shape for layer in layers]
    fits = all(len(shape) == 2 for shape in widths) and all(
        first[0] == second[1] for first, second in zip(widths, widths[1:], strict=False)
    )
    if not layers or not fits or widths[-1][0] != 1:
        raise ValueError(f"{path} is no aesthetic head: its layers are {widths}, where one score should come out")
    return layers
