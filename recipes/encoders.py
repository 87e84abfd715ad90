"""The two face encoders of the tiny world: a slim recognition backbone and a slim CLIP vision tower.

The backbone learns to tell people apart (contrast between two photos of each person of a batch) and what makes them
differ (the renderer's own identity parameters). The vision tower learns to keep what is in the crop: its last layer but
one, which UniPortrait reads, must give the crop's pixels back, its pooled output the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..adapters.features import clip_pixels, recognition_input
from ..demo.tiny_sizes import TinySizes
from ..faces.backbone import IRBackbone
from .loop import Loop
from .recipe import Training

VISION_HEAD_WIDTH = 32
TEMPERATURE = 0.1
PATCH_DETAIL = 7  # a 14 px patch is given back at half its resolution
CLIP_SIDE = 224


@dataclass(frozen=True)
class Portraits:
    """Labelled people: aligned crops uint8 (people, photos, side, side, 3), and standardised traits (people, t)."""

    crops: Tensor
    traits: Tensor


class FaceEncoders(nn.Module):
    """Both networks with the heads that only training needs."""

    def __init__(self, sizes: TinySizes, num_traits: int) -> None:
        super().__init__()
        self.backbone = IRBackbone(sizes.backbone_widths, sizes.backbone_units, sizes.embedding)
        self.vision = CLIPVisionModelWithProjection(vision_config(sizes))
        self.traits_of_embedding = nn.Linear(sizes.embedding, num_traits)
        self.traits_of_vision = nn.Linear(sizes.vision_projection, num_traits)
        self.pixels_of_patch = nn.Linear(sizes.vision_width, 3 * PATCH_DETAIL**2)

    def losses(self, pixels: Tensor, traits: Tensor) -> dict[str, Tensor]:
        """pixels (2·P, 3, 224, 224) in [0, 1]: two photos of each of P people, one half after the other."""
        normalised = clip_pixels(pixels)
        embedding = self.backbone.embed(recognition_input(normalised))
        seen = self.vision(normalised, output_hidden_states=True)
        both = traits.repeat(2, 1)
        given_back = self.pixels_of_patch(seen.hidden_states[-2][:, 1:])
        return {
            "contrast": contrast(*F.normalize(embedding, dim=-1).chunk(2)),
            "traits": F.mse_loss(self.traits_of_embedding(embedding), both),
            "vision traits": F.mse_loss(self.traits_of_vision(seen.image_embeds), both),
            "vision pixels": F.mse_loss(given_back, _patches(normalised)),
        }


def vision_config(sizes: TinySizes) -> CLIPVisionConfig:
    """CLIP's vision tower at the tiny sizes."""
    return CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=sizes.vision_feed_forward,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_width // VISION_HEAD_WIDTH,
        image_size=sizes.vision_image,
        patch_size=sizes.vision_patch,
        projection_dim=sizes.vision_projection,
        hidden_act="gelu",
    )


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """InfoNCE between two photos (P, d) of the same P people, both ways."""
    scores = first @ second.T / TEMPERATURE
    right = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def train_encoders(
    folder: Path,
    training: Training,
    portraits: Portraits,
    sizes: TinySizes,
    device: torch.device,
    say: Callable[[str], None],
) -> FaceEncoders:
    """Train on the portraits and return the networks."""
    torch.manual_seed(2)
    encoders = FaceEncoders(sizes, portraits.traits.shape[1]).to(device)
    optimiser = torch.optim.AdamW(encoders.parameters(), training.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    num_people, num_photos = portraits.crops.shape[:2]

    def step(number: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        nn.Module.train(encoders.backbone, True)  # the class stays in eval mode for its users; here statistics are made
        done = number / training.steps
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * min(1.0, (number + 1) / 100, max(0.02, (1 - done) / 0.4))
        people = torch.randperm(num_people, generator=generator)[: training.batch // 2]
        photos = torch.stack([torch.randperm(num_photos, generator=generator)[:2] for _ in people])
        crops = portraits.crops[people.repeat(2), photos.T.flatten()]
        losses = encoders.losses(_as_seen(crops, generator).to(device), portraits.traits[people].to(device))
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(encoders.parameters(), 1.0)
        optimiser.step()
        return losses

    Loop("encoders", folder, training.steps, {"encoders": encoders, "optimiser": optimiser}, say).run(step)
    encoders.backbone.eval()
    return encoders.eval().requires_grad_(False)


def _as_seen(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops as CLIP's input before normalisation, blurred and lit at random: photos come in every size and light."""
    pixels = crops.permute(0, 3, 1, 2).float() / 255
    side = int(torch.randint(40, CLIP_SIDE // 2 + 1, (), generator=generator))
    small = F.interpolate(pixels, size=(side, side), mode="area")
    large = F.interpolate(small, size=(CLIP_SIDE, CLIP_SIDE), mode="bicubic", antialias=False)
    gain = 0.9 + 0.2 * torch.rand((len(crops), 1, 1, 1), generator=generator)
    return (
        (large * gain).clamp(0, 1).contiguous()
    )  # channels last crashes the narrow convolutions of torch 2.13 on CPUs


def _patches(pixels: Tensor) -> Tensor:
    """(B, 3, 224, 224) as (B, 256, 147): what each patch of 14 px shows, at half its resolution."""
    half = F.avg_pool2d(pixels, 2)
    return F.unfold(half, PATCH_DETAIL, stride=PATCH_DETAIL).transpose(1, 2)
