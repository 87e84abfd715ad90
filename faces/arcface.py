"""ArcFace recognisers as ONNX files, such as glintr100 of insightface's antelopev2 (docs/pulid.md, 1.1).

Letters: k crops, d length of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .alignment import resize_bilinear
from .insightface_packs import RECOGNISER, find_network, missing_message
from .onnx_sessions import AUTO, open_session

SIZE = 112  # pixels; the crop is that of `alignment.align`
_AT_ONCE = 16


class ArcFace:
    """A recogniser with one picture input (B, 3, 112, 112) and one embedding output."""

    def __init__(self, model: bytes, name: str, provider: str = AUTO) -> None:
        """model: the content of the .onnx file. provider: where it computes, see `onnx_sessions.open_session`.

        Raises ValueError when onnxruntime is missing, and for a file that is damaged or no such recogniser.
        """
        self.name = name
        self._session = open_session(model, f"the recogniser {name}", provider=provider)
        (self._input, *others), outputs = self._session.get_inputs(), self._session.get_outputs()
        if others or len(outputs) != 1 or list(self._input.shape[1:]) != [3, SIZE, SIZE]:
            raise ValueError(
                f"{name} is not a face recogniser of the ArcFace family: it reads {self._input.shape} and has "
                f"{len(outputs)} outputs, where (batch, 3, {SIZE}, {SIZE}) and 1 are expected"
            )

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embeddings (k, d) float32 as the network gives them, not normalised.

        crops: (k, 112, 112, 3) uint8 RGB. Square crops of another size are scaled to it: with the 512 px portrait that
        is what the released code does where its own detector sees no face.
        """
        pixels = network_input(crops)
        step = 1 if self._input.shape[0] == 1 else _AT_ONCE
        parts = [pixels[start : start + step] for start in range(0, len(pixels), step)]
        return np.concatenate([self._session.run(None, {self._input.name: part})[0] for part in parts])


def load_recogniser(folders: Sequence[Path], provider: str = AUTO) -> ArcFace:
    """The recogniser of an insightface pack below these folders, such as ComfyUI's models/insightface.

    Raises ValueError when there is none, naming the file, all places and where it is published, and as `ArcFace` does.
    """
    found = find_network(RECOGNISER, folders)
    if found is None:
        raise ValueError(missing_message(RECOGNISER, folders))
    return ArcFace(found.read(), found.name, provider)


def network_input(crops: np.ndarray) -> np.ndarray:
    """What the network reads, (k, 3, 112, 112) float32 in [-1, 1], from square crops (k, s, s, 3) uint8 RGB."""
    sized = [crop if crop.shape[0] == SIZE else resize_bilinear(crop, SIZE, SIZE) for crop in crops]
    return ((np.stack(sized).astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
