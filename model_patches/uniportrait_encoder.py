"""A person, as UniPortrait sees them, from aligned crops: the encoders under ComfyUI's memory manager."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import nn

from ..adapters.features import (
    clip_pixels,
    intrinsic_features,
    recognition_input,
    structure_features,
    unconditional_features,
)
from ..adapters.identity import Identity
from ..adapters.uniportrait import UniPortrait
from .managed import managed
from .uniportrait_models import SYSTEM

CROPS_AT_ONCE = 8


class UniPortraitEncoder:
    """The resampler with the face backbone and CLIP vision tower that feed it.

    Args:
        weights: the adapter, made with ComfyUI's casting layers.
        backbone: face-recognition network with `features(image) -> four taps`, `widths` and `input_size`.
        clip_vision: ComfyUI's CLIP_VISION, the ViT-H/14 image encoder of IP-Adapter.

    Raises:
        ValueError: the three do not fit together.
    """

    def __init__(self, weights: UniPortrait, backbone: nn.Module, clip_vision: Any) -> None:
        self.weights = weights
        self.clip_vision = clip_vision
        self._check_widths(backbone)
        self.resampler = managed(weights.resampler)
        self.backbone = managed(backbone.float().eval())
        self.image_projection = None if weights.image_projection is None else managed(weights.image_projection)
        self._grey_features: torch.Tensor | None = None

    @torch.inference_mode()
    def encode(self, crops: torch.Tensor, structure_scale: float, label: str = "") -> Identity:
        """One person's identity from k aligned crops (k, 224, 224, 3), float RGB in [0, 1]; spec sections 2 and 3.

        The references are joined on the token axis, so their order does not matter. Unconditional tokens depend on
        `structure_scale` only.
        """
        device = self.resampler.load_device
        comfy.model_management.load_models_gpu([self.resampler, self.backbone, self.clip_vision.patcher])
        intrinsic, structure = [], []
        for part in crops.split(CROPS_AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            pixels = self._clip_input(part)
            taps = self.backbone.model.features(recognition_input(pixels).to(device))
            intrinsic.append(intrinsic_features(taps))
            structure.append(structure_features(taps, self._clip_features(pixels).to(device)))
        nobody = unconditional_features(taps, self._grey_picture().to(device))
        positive = self.weights.resampler(torch.cat(intrinsic, dim=1), torch.cat(structure, dim=1), structure_scale)
        negative = self.weights.resampler(*nobody, structure_scale)
        tokens = {"cond": positive[0].float().cpu(), "uncond": negative[0].float().cpu()}
        return Identity(system=SYSTEM, adapter=self.weights.fingerprint, tokens=tokens, label=label)

    @torch.inference_mode()
    def embed(self, crops: torch.Tensor) -> torch.Tensor:
        """Identity vectors (k, d) of unit length, float32 on the CPU, from aligned crops (k, 224, 224, 3) in [0, 1].

        They come from the backbone alone, so that their cosine says how much two photos look like one person.
        """
        comfy.model_management.load_models_gpu([self.backbone])
        vectors = []
        for part in crops.split(CROPS_AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            pixels = recognition_input(self._clip_input(part)).to(self.backbone.load_device)
            vectors.append(self.backbone.model.embed(pixels).float().cpu())
        return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)

    def image_prompt_tokens(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positive and negative IP tokens (4, D) of one picture (1, H, W, 3) in [0, 1]; spec section 4.

        Raises:
            ValueError: no image-prompt file was loaded.
        """
        if self.image_projection is None:
            raise ValueError("Image prompt: choose the image-prompt file (ip-adapter_sd15) in Load UniPortrait.")
        embeds = self.clip_vision.encode_image(image, crop=False)["image_embeds"][:1]
        comfy.model_management.load_models_gpu([self.image_projection])
        embeds = embeds.to(self.image_projection.load_device, torch.float32)
        both = self.image_projection.model(torch.cat([embeds, torch.zeros_like(embeds)])).cpu()
        return both[0], both[1]

    def _check_widths(self, backbone: nn.Module) -> None:
        sizes = self.weights.resampler.sizes
        shallow, intrinsic = sum(backbone.widths[:3]), backbone.widths[3]
        if intrinsic != sizes.intrinsic_dim:
            raise ValueError(
                f"Load UniPortrait: the face backbone gives {intrinsic}-wide features, the faceid file wants "
                f"{sizes.intrinsic_dim}. Use glint360k_curricular_face_r101_backbone.bin with the released files."
            )
        clip_width = _clip_width(self.clip_vision)
        if shallow + clip_width != sizes.structure_dim:
            raise ValueError(
                f"Load UniPortrait: this CLIP_VISION gives {clip_width}-wide features, the faceid file wants "
                f"{sizes.structure_dim - shallow}. Use the ViT-H/14 image encoder of IP-Adapter "
                "(CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors)."
            )

    def _clip_input(self, crops: torch.Tensor) -> torch.Tensor:
        """(k, 224, 224, 3) in [0, 1] -> CLIP pixels (k, 3, 224, 224), float32; aligned crops need no resizing."""
        size = self.clip_vision.image_size
        assert crops.ndim == 4 and crops.shape[1:] == (size, size, 3) and len(crops), tuple(crops.shape)
        return clip_pixels(crops.float().cpu().movedim(-1, 1))

    def _clip_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch tokens (k, 256, width) of the last layer but one, float32 on the CPU."""
        clip = self.clip_vision
        hidden = clip.model(pixel_values=pixels.to(clip.load_device), intermediate_output=-2)[1]
        return hidden[:, 1:].float().cpu()

    def _grey_picture(self) -> torch.Tensor:
        """CLIP's view of a mean-coloured picture: the structure of nobody. The same for every encoding."""
        if self._grey_features is None:
            size = self.clip_vision.image_size
            self._grey_features = self._clip_features(torch.zeros(1, 3, size, size))
        return self._grey_features


def _clip_width(clip_vision: Any) -> int:
    """Width of a CLIP tower's patch tokens; 0 for vision models of other kinds, such as SigLIP and DINO."""
    embeddings = getattr(getattr(clip_vision.model, "vision_model", None), "embeddings", None)
    class_embedding = getattr(embeddings, "class_embedding", None)
    return 0 if class_embedding is None else class_embedding.shape[-1]
