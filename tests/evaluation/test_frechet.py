"""FID: closed form for Gaussians, the library on its own features, and what is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.evaluation.metrics.frechet import InceptionFeatures, frechet_distance


@pytest.fixture(scope="module", autouse=True)
def library():
    pytest.importorskip("torchmetrics.image.fid", exc_type=ImportError)


def whitened(count, mean, deviations, seed):
    """Features (count, d) whose sample mean and covariance are exactly these."""
    values = np.random.default_rng(seed).normal(size=(count, len(mean)))
    values -= values.mean(axis=0)
    values = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values.T))).T
    return values * deviations + mean


def test_gaussians_have_the_distance_of_the_closed_form():
    first = whitened(60, np.array([0.0, 1, 2]), np.array([1.0, 2, 3]), 0)
    second = whitened(50, np.array([1.0, 1, 0]), np.array([2.0, 2, 0.5]), 1)
    expected = (1 + 0 + 4) + (1 + 0 + 2.5**2)  # |difference of means|² + Σ (σ1 - σ2)²
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_that_of_another_library():
    fidelity = pytest.importorskip("torch_fidelity.metric_fid", exc_type=ImportError)
    random = np.random.default_rng(2)
    first, second = random.normal(size=(40, 8)), random.normal(0.3, 1.4, size=(30, 8)) @ random.normal(size=(8, 8))
    statistics = [fidelity.fid_features_to_statistics(torch.tensor(each)) for each in (first, second)]
    expected = fidelity.fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_distance(first, second) == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


def test_one_picture_has_no_spread():
    with pytest.raises(ValueError, match="at least two pictures on each side, got 1 and 5"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_the_inception_network_is_read_from_a_local_file(tmp_path):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    network = fidelity.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    # The library fills a new network from a file only, so this one writes itself before it reads itself.
    path = tmp_path / "inception.pth"

    class Random(network):
        def load_state_dict(self, state_dict, *_):
            torch.save(
                {key: value.half() if value.is_floating_point() else value for key, value in self.state_dict().items()},
                path,
            )

    torch.save({}, path)
    random = Random("random", ["2048"], str(path))
    features = InceptionFeatures(path)
    random = network("same", ["2048"], str(path))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    found = features.features([picture])
    expected = random(torch.from_numpy(picture).movedim(-1, 0)[None])[0]
    assert found.shape == (1, 2048)
    np.testing.assert_allclose(found, expected.double(), rtol=1e-4, atol=1e-6)
    assert features.describe()["name"] == "inception-2048"


def test_missing_and_other_inception_files_are_named(tmp_path):
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    with pytest.raises(ValueError, match="nothing.pth could not be read"):
        InceptionFeatures(tmp_path / "nothing.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth is not the Inception network of torch-fidelity"):
        InceptionFeatures(tmp_path / "other.pth")
