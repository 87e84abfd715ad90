"""Whether a face is a man's or a woman's, for the prompt's class word, by insightface's attribute network.

The network reads an upright square around the box, without rotation (docs/uniid.md, 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .alignment import warp
from .insightface_packs import GENDER, find_network
from .onnx_sessions import open_session
from .types import Box

CLASS_WORDS = ("woman", "man")  # by the network's answer
_MARGIN = 1.5  # side of the square, in longer sides of the box


class GenderNetwork:
    """A network with one picture input (1, 3, side, side) whose first two outputs stand for woman and man."""

    def __init__(self, model: bytes, name: str) -> None:
        """model: the content of the .onnx file.

        Raises ValueError when onnxruntime is missing, and for a file that is damaged or no such network.
        """
        self.name = name
        self._session = open_session(model, f"the gender network {name}", GENDER.instead)
        (network_input, *others), outputs = self._session.get_inputs(), self._session.get_outputs()
        sides = network_input.shape[2:]
        if others or len(outputs) != 1 or outputs[0].shape[-1] != 3 or not all(isinstance(side, int) for side in sides):
            raise ValueError(
                f"{name} is not a network for gender and age: it reads {network_input.shape} and gives "
                f"{[output.shape for output in outputs]}, where one square picture and 3 numbers are expected"
            )
        self._input, self._side = network_input.name, sides[0]

    def class_word(self, image: np.ndarray, box: Box) -> str:
        """ "woman" or "man", for the face in this box of a picture (H, W, 3) uint8 RGB."""
        x1, y1, x2, y2 = box
        scale = self._side / (_MARGIN * max(x2 - x1, y2 - y1, 1.0))
        shift = self._side / 2 - scale * np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        crop = warp(image, np.hstack([scale * np.eye(2), shift[:, None]]), self._side)
        pixels = crop.astype(np.float32).transpose(2, 0, 1)[None]  # the graph holds the normalisation
        (answers,) = self._session.run(None, {self._input: pixels})
        return CLASS_WORDS[int(answers[0, :2].argmax())]


def load_gender_network(folders: Sequence[Path]) -> GenderNetwork | None:
    """The gender network of an insightface pack below these folders, such as ComfyUI's models/insightface, if any.

    Raises ValueError as `GenderNetwork` does.
    """
    found = find_network(GENDER, folders)
    return None if found is None else GenderNetwork(found.read(), found.name)
