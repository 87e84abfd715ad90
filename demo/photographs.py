"""Real photographs of people that installed packages bring along; they are read where they lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# The package to install, its module, the file inside. The first shows one person, the second a group of six.
PORTRAIT = ("scikit-image", "skimage", "data/astronaut.png")
GROUP = ("insightface", "insightface", "data/images/t1.jpg")
ADVICE = "Install it, or give two photos of your own: python run.py demo --photos one.jpg another.jpg"


def packaged_photographs() -> tuple[Path, Path]:
    """Return the paths of a portrait and of a group of six people.

    Raises:
        ValueError: a package or its photograph is not installed.
    """
    return _packaged(*PORTRAIT), _packaged(*GROUP)


def _packaged(package: str, module: str, file: str) -> Path:
    spec = importlib.util.find_spec(module)  # finds the folder and imports nothing
    if spec is None or spec.origin is None:
        raise ValueError(f"A photograph of the demo comes with the package {package}, which is not installed. {ADVICE}")
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise ValueError(f"This installation of {package} has no {file}, a photograph of the demo. {ADVICE}")
    return path
