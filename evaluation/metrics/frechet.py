"""FID: distance of two sets of pictures by the statistics of a feature network; the statistics are torchmetrics'.

The paper does not say what it compares to. Its base model has no FID, so the base model's own pictures of the same
prompts are meant, very probably (spec, section 12).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..fingerprints import file_fingerprint
from ..weights import read_state_dict
from .clip import ClipModel

DEFINITION = (
    "Frechet distance of Gaussians fitted to the features of a row's pictures and of the reference pictures; "
    "comparable only with the same feature network, the same reference and about the same number of pictures"
)
_INSTALL = "Install it with `pip install torchmetrics torch-fidelity`"


class FeatureNetwork(Protocol):
    """What turns pictures into features."""

    def describe(self) -> dict[str, str]:
        """Name and fingerprint; JSON values."""
        ...

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Features (B, d) of pictures (H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True)
class FidReference:
    """What rows are compared to: the pictures of a folder, or those of another row."""

    features: FeatureNetwork
    pictures: tuple[Path, ...] = ()
    row: str = ""


class InceptionFeatures:
    """The 2048 features of the Inception network that FID is defined on, with a local weights file of torch-fidelity.

    Raises ValueError when torch-fidelity or the file is missing, or the file is of another network.
    """

    def __init__(self, path: str | Path) -> None:
        weights = read_state_dict(path)
        self._path, self._fingerprint = Path(path), file_fingerprint(path)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit to torch
            raise ValueError(f"FID needs torch-fidelity, which cannot be imported ({error}). {_INSTALL}") from error
        with tempfile.TemporaryDirectory() as folder:
            # The library unpickles whatever a file holds; this one holds what was read as tensors only.
            checked = Path(folder) / "inception.pth"
            torch.save(weights, checked)
            try:
                self._network = FeatureExtractorInceptionV3("inception", ["2048"], str(checked))
            except RuntimeError as error:
                raise ValueError(
                    f"{path} is not the Inception network of torch-fidelity (weights-inception-2015-12-05-6726825d.pth)"
                    f": {error}"
                ) from error

    def describe(self) -> dict[str, str]:
        """Name and fingerprint."""
        return {"name": "inception-2048", "file": self._path.name, "sha256": self._fingerprint}

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Features (B, 2048); pictures are scaled to 299 x 299 as the published network's own code does."""
        rows = [self._network(torch.from_numpy(image.copy()).movedim(-1, 0)[None])[0] for image in images]
        return torch.cat(rows).double().numpy()


class ClipFeatures:
    """CLIP image embeddings as features, where there is no Inception file; not comparable with published FID."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model

    def describe(self) -> dict[str, str]:
        """Name and fingerprint."""
        return {"name": "clip", **self._model.describe()}

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (B, d) of unit length."""
        return self._model.embed_images(images)


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance of two sets of features (B, d), at least two each, by torchmetrics.

    Raises ValueError when torchmetrics is missing or a set has fewer than two.
    """
    if min(len(features), len(others)) < 2:
        raise ValueError(f"FID needs at least two pictures on each side, got {len(features)} and {len(others)}")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"FID needs torchmetrics, which cannot be imported ({error}). {_INSTALL}") from error
    metric = FrechetInceptionDistance(feature=_Given(features.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(others).double(), real=True)
    metric.update(torch.from_numpy(features).double(), real=False)
    return float(metric.compute())


class _Given(nn.Module):
    """Features that are there already, in the place where torchmetrics expects a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features
