"""The base model: a U-Net of SD 1.5's architecture and its text encoder, trained together on cached latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..demo.tiny_sizes import TinySizes
from ..trainer.model.losses import diffusion_loss, noisy_latents
from .loop import Average, Loop
from .recipe import Training
from .text import Words, new_text_encoder, sometimes_unknown

# Weights of noise levels. First those of the paper (arXiv 2303.09556); then more for strong noise, where it is decided
# which way a head turns: a small part of the first loss, which 4,800 steps had not learned.
MIN_SNR, LATER_MIN_SNR = 5.0, 0.3
LATER = 0.48  # part of the steps with the first
NO_TEXT = 0.1  # share of pictures without a caption, for classifier-free guidance
UNKNOWN_WORDS = 0.02
PAIRS = 0.35  # share of steps with pictures of two people
AVERAGE = 0.9995


@dataclass(frozen=True)
class LatentSet:
    """Latents (n, c, h, w) float16 of pictures of one size, and their captions' words (n, 77)."""

    latents: Tensor
    words: Tensor


def unet_config(sizes: TinySizes) -> dict[str, Any]:
    """diffusers' arguments for the U-Net of SD 1.5 with other widths; 8 heads everywhere, as there."""
    return {
        "sample_size": 16,
        "in_channels": sizes.latent_channels,
        "out_channels": sizes.latent_channels,
        "block_out_channels": sizes.widths,
        "layers_per_block": sizes.num_res_blocks,
        "cross_attention_dim": sizes.context,
        "attention_head_dim": 8,
    }


def noise_schedule() -> DDPMScheduler:
    """SD 1.5's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="epsilon",
    )


class BaseModel(nn.Module):
    """The two networks that learn together."""

    def __init__(self, sizes: TinySizes, num_words: int) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**unet_config(sizes))
        self.text: CLIPTextModel = new_text_encoder(num_words, sizes)

    def forward(self, noisy: Tensor, timesteps: Tensor, words: Tensor) -> Tensor:
        """Predict the noise (B, c, h, w)."""
        context = self.text(words).last_hidden_state
        return self.unet(noisy, timesteps, context).sample


def train_base(
    folder: Path,
    training: Training,
    sets: Sequence[LatentSet],
    words: Words,
    sizes: TinySizes,
    device: torch.device,
    say: Callable[[str], None],
) -> BaseModel:
    """Train on the sets, one kind of picture a step, and return the averaged networks."""
    torch.manual_seed(1)
    model = BaseModel(sizes, len(words)).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(
        model.parameters(), training.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average = Average(model, AVERAGE)
    alphas = noise_schedule().alphas_cumprod.to(device)
    nothing = words.encode([""])[0]

    def step(number: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * min(1.0, (number + 1) / 500)
        chosen = sets[int(torch.rand((), generator=generator) < PAIRS and len(sets) > 1)]
        rows = torch.randint(len(chosen.latents), (training.batch,), generator=generator)
        prompts = sometimes_unknown(chosen.words[rows], UNKNOWN_WORDS, generator)
        prompts[torch.rand(training.batch, generator=generator) < NO_TEXT] = nothing
        places = torch.arange(training.batch) + torch.rand(training.batch, generator=generator)
        timesteps = (places * (1000 / training.batch)).long().clamp(max=999)  # spread evenly: less noise in the loss
        latents = chosen.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator)
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted = model(noisy_latents(latents, noise, alphas[timesteps]), timesteps, prompts.to(device))
        gamma = MIN_SNR if number < LATER * training.steps else LATER_MIN_SNR
        loss = diffusion_loss(predicted, noise, alphas[timesteps], "epsilon", gamma).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model, number)
        return {"loss": loss}

    Loop("base", folder, training.steps, {"model": model, "optimiser": optimiser, "average": average}, say).run(step)
    average.copy_to(model)
    return model.eval().requires_grad_(False)
