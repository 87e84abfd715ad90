"""What the tests of this room share: drawn pictures, and the detector as a user meets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from likeness.faces.detection import Detector, find_faces, load_detector
from likeness.faces.types import Faces
from likeness.synthetic import Scene, draw_scene, render
from likeness.synthetic import test_people as unseen_people
from PIL import Image


@pytest.fixture(scope="session")
def detector() -> Detector:
    return load_detector("bundled")


@pytest.fixture(scope="session")
def pictures() -> Callable[[Sequence[Scene], int], list[np.ndarray]]:
    """Scenes as 8-bit pictures, enlarged by a factor with bicubic interpolation as a user would."""

    def draw(scenes: Sequence[Scene], enlarged: int) -> list[np.ndarray]:
        height, width = scenes[0].size
        small = render(scenes).pixels()
        size = width * enlarged, height * enlarged
        return [np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)) for picture in small]

    return draw


@pytest.fixture(scope="session")
def faces_of(detector: Detector) -> Callable[[list[np.ndarray]], list[Faces]]:
    """The faces of each picture."""
    return lambda images: [find_faces([image], detector) for image in images]


@pytest.fixture(scope="session")
def small_scenes() -> list[Scene]:
    """Eight test people at 64 px, three pictures each."""
    return [draw_scene([person], 31 * person + take, (64, 64)) for person in unseen_people(8) for take in range(3)]
