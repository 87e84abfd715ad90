"""CLIP-T: agreement of picture and prompt by CLIP ViT-L/14 (spec, section 12), with a local weights file.

Letters: B pictures, d width of CLIP's common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..fingerprints import file_fingerprint
from ..weights import read_state_dict

DEFINITION = "cosine of CLIP's image and text embedding of picture and prompt, times 100"

_AT_ONCE = 16


class ClipModel:
    """A CLIP from a local file in the layout of OpenAI and open_clip, on the CPU in float32.

    Sizes come from the file. quick_gelu: the activation of OpenAI's weights; False for LAION's own.
    Raises ValueError when open_clip or the file is missing, or the file is of another layout.
    """

    def __init__(self, path: str | Path, quick_gelu: bool = True) -> None:
        self.path = Path(path)
        weights = read_state_dict(path)
        self.fingerprint = file_fingerprint(path)
        self._model = _build(weights, self.path, quick_gelu)
        self._library = _library()
        self._preprocess = self._library.image_transform(
            self._model.visual.image_size,
            is_train=False,
            mean=self._library.OPENAI_DATASET_MEAN,
            std=self._library.OPENAI_DATASET_STD,
        )

    @property
    def width(self) -> int:
        """Length of the embeddings."""
        return int(self._model.text_projection.shape[1])

    def describe(self) -> dict[str, str]:
        """What results say about it; JSON values."""
        return {"file": self.path.name, "sha256": self.fingerprint}

    @torch.inference_mode()
    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures (H, W, 3) uint8 RGB as (B, d) float64 of unit length: short side to the input's, centre cut out."""
        pixels = torch.stack([self._preprocess(Image.fromarray(image)) for image in images])
        return _unit(torch.cat([self._model.encode_image(part) for part in pixels.split(_AT_ONCE)]))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as (B, d) float64 of unit length; what is longer than 77 tokens is cut."""
        tokens = self._library.tokenize(list(texts), context_length=self._model.context_length)
        return _unit(torch.cat([self._model.encode_text(part) for part in tokens.split(_AT_ONCE)]))


def clip_t(image: np.ndarray, text: np.ndarray) -> float:
    """CLIP-T of an image and a text embedding (d,), both of unit length: -100 to 100."""
    return float(image @ text) * 100


def _library() -> Any:
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit to torch
        raise ValueError(
            f"CLIP-T needs open_clip, which cannot be imported ({error}). Install it with `pip install "
            "open_clip_torch` and a torchvision that fits to the installed torch"
        ) from error
    return open_clip


def _build(weights: dict[str, Tensor], path: Path, quick_gelu: bool) -> Any:
    build = _library().model.build_model_from_openai_state_dict
    if any(key.startswith(("text_model.", "vision_model.")) for key in weights):
        raise ValueError(
            f"{path} is a CLIP in the layout of transformers; CLIP-T reads that of OpenAI and open_clip (ViT-L-14.pt)"
        )
    try:
        model = build(weights, quick_gelu=quick_gelu, cast_dtype=torch.float32).float()
        model.load_state_dict({key: value.float() for key, value in weights.items()})  # it rounded them to half
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is no complete CLIP with text and image encoder: {error}") from error
    return model.eval().requires_grad_(False)


def _unit(features: Tensor) -> np.ndarray:
    features = features.double()
    return (features / features.norm(dim=-1, keepdim=True)).numpy()
