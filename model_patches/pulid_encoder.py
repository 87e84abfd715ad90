"""A person, as PuLID sees them, from portraits: the face networks and the ID encoder under ComfyUI's memory manager.

Letters: k photos of ONE person, n patches, W the tower's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from ..adapters.identity import Identity
from ..adapters.pulid import PuLID
from ..adapters.references import id_condition, person_tokens
from .managed import managed

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class SeenFaces:
    """What the face networks say about k photos; float32, on the CPU.

    Attributes:
        embeddings: (k, 512), the recogniser's, not normalised.
        projected: (k, 768) of unit length, EVA-CLIP's.
        hidden: five times (k, 1 + n, W), EVA-CLIP's.
        composites: (k, 512, 512, 3) in [0, 1], what EVA-CLIP was shown: the face in grey, the rest white.
    """

    embeddings: Tensor
    projected: Tensor
    hidden: tuple[Tensor, ...]
    composites: Tensor


class PulidEncoder:
    """The ID encoder with the face networks that feed it.

    Args:
        weights: the adapter, made with ComfyUI's casting layers.
        tower: a patcher of EVA02-CLIP, `see(composites, antialias) -> projected and hidden`, `width`, `embedding`.
        parser: a patcher of the face parser, `composite(pixels) -> composites`.
        recogniser: `embed(crops) -> embeddings`, `name`; it runs in onnxruntime, outside ComfyUI's memory.

    Raises:
        ValueError: the tower does not fit the adapter.
    """

    def __init__(self, weights: PuLID, tower: ModelPatcher, parser: ModelPatcher, recogniser: Any) -> None:
        self.weights = weights
        self.tower = tower
        self.parser = parser
        self.recogniser = recogniser
        sizes, network = weights.sizes.encoder, tower.model
        if network.width != sizes.vit_dim or network.embedding >= sizes.id_dim:
            raise ValueError(
                f"this EVA-CLIP gives {network.width}-wide features and an embedding of {network.embedding} numbers, "
                f"while {weights.edition} was trained with features {sizes.vit_dim} wide. Use "
                "EVA02_CLIP_L_336_psz14_s6B.pt with the released files."
            )
        self.id_encoder = managed(weights.encoder)

    @torch.inference_mode()
    def see(self, portraits: Sequence[Any], antialias: bool | None = None) -> SeenFaces:
        """Look at portraits of one person (docs/pulid.md, 1): each with a crop (512, 512, 3) and recognition uint8 RGB.

        antialias: how the composite shrinks to the tower's size; None is as each edition was published.

        Raises:
            ValueError: the recogniser's embedding has another length than the adapter was trained with.
        """
        assert portraits, "nobody to see"
        if antialias is None:
            antialias = self.weights.edition != "pulid-v1"
        comfy.model_management.load_models_gpu([self.tower, self.parser])
        parts = []
        for start in range(0, len(portraits), AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            parts.append(self._see_part(portraits[start : start + AT_ONCE], antialias))
        hidden = zip(*(part.hidden for part in parts), strict=True)
        return SeenFaces(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.projected for part in parts]),
            tuple(torch.cat(states) for states in hidden),
            torch.cat([part.composites for part in parts]),
        )

    @torch.inference_mode()
    def encode(
        self, seen: SeenFaces, label: str = "", joining: str = "published", noise: float = 0.0, seed: int = 0
    ) -> Identity:
        """The identity of the person on these photos; joining, noise and seed as in `references.person_tokens`."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu([self.id_encoder])
        device = self.id_encoder.load_device
        condition = id_condition(seen.embeddings, seen.projected).to(device)
        hidden = [state.to(device) for state in seen.hidden]
        tokens = person_tokens(self.weights.encoder, condition, hidden, joining, noise, seed)
        return Identity(self.weights.edition, self.weights.fingerprint, tokens, label)

    def _see_part(self, portraits: Sequence[Any], antialias: bool) -> SeenFaces:
        # Pictures stay on the CPU, where resizing gives the same on every machine; the networks fetch what they read.
        crops = torch.stack([torch.from_numpy(portrait.crop) for portrait in portraits])
        composites = self.parser.model.composite(crops.movedim(-1, 1).float() / 255)
        features = self.tower.model.see(composites, antialias)
        return SeenFaces(
            self._recognise(portraits, features.projected.shape[-1]),
            features.projected.float().cpu(),
            tuple(state.float().cpu() for state in features.hidden),
            composites.movedim(1, -1).contiguous(),
        )

    def _recognise(self, portraits: Sequence[Any], embedding: int) -> Tensor:
        faces = torch.stack([torch.from_numpy(portrait.recognition) for portrait in portraits])
        vectors = torch.from_numpy(self.recogniser.embed(faces.numpy()))
        wanted = self.weights.sizes.encoder.id_dim - embedding
        if vectors.shape[1] != wanted:
            raise ValueError(
                f"the recogniser {self.recogniser.name} gives {vectors.shape[1]} numbers for a face, while "
                f"{self.weights.edition} was trained with {wanted}. Use glintr100.onnx of insightface's antelopev2."
            )
        return vectors
