"""A person, as UniID sees them, from upright crops: the backbone and both branches under ComfyUI's memory manager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from ..adapters.identity import Identity
from ..adapters.uniid import UniID
from ..adapters.uniid_tokens import uniid_tokens
from .managed import managed
from .uniid_models import SYSTEM

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class SeenFaces:
    """What the backbone says about k photos of one person; float32, on the CPU.

    Attributes:
        embeddings: (k, 512), not normalised.
        maps: the outputs of its four stages, (k, 64, 56, 56) to (k, 512, 7, 7).
    """

    embeddings: Tensor
    maps: tuple[Tensor, ...]


class UniidEncoder:
    """The networks that lead from photos to tokens.

    Args:
        weights: the adapter, made with ComfyUI's casting layers.
        backbone: a patcher of the ArcFace backbone, `recognise(image) -> embedding and maps`, `widths`, `input_size`.

    Raises:
        ValueError: the backbone does not fit the adapter.
    """

    def __init__(self, weights: UniID, backbone: ModelPatcher) -> None:
        self.weights = weights
        self.backbone = backbone
        self._check_widths()
        self.branches = [managed(part) for part in (weights.text_branch, weights.resampler) if part is not None]

    @torch.inference_mode()
    def see(self, crops: Any) -> SeenFaces:
        """Look at upright crops of one person (docs/uniid.md, 1.1): an array (k, 112, 112, 3) uint8 RGB."""
        assert len(crops), "nobody to see"
        comfy.model_management.load_models_gpu([self.backbone])
        pixels = (torch.from_numpy(crops).movedim(-1, 1).float() / 255 - 0.5) / 0.5
        embeddings, maps = [], []
        for part in pixels.split(AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            seen = self.backbone.model.recognise(part.to(self.backbone.load_device))
            embeddings.append(seen.embedding.float().cpu())
            maps.append([each.float().cpu() for each in seen.maps])
        return SeenFaces(torch.cat(embeddings), tuple(torch.cat(stage) for stage in zip(*maps, strict=True)))

    @torch.inference_mode()
    def encode(self, seen: SeenFaces, label: str = "") -> Identity:
        """The identity of the person on these photos, with the tokens of the branches that are loaded."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu(self.branches)
        device = self.branches[0].load_device
        tokens = uniid_tokens(self.weights, seen.embeddings.to(device), [each.to(device) for each in seen.maps])
        return Identity(SYSTEM, self.weights.fingerprint, tokens, label)

    def _check_widths(self) -> None:
        *shallow, deep = self.backbone.model.widths
        found = (sum(shallow), deep)
        text, adapter = self.weights.sizes.text, self.weights.sizes.adapter
        wanted = {(sum(shallow), text.map_dim)} if text is not None else set()
        if adapter is not None:
            wanted.add((adapter.shallow_dim, adapter.map_dim))
        if wanted != {found}:
            raise ValueError(
                f"Load UniID: this backbone gives maps of {found} channels, and the adapter wants {wanted - {found}}. "
                "Use backbone.pth of insightface's glint360k_cosface_r100_fp16_0.1 with the released files."
            )
