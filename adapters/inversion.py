"""DDIM inversion: the latents that lead a deterministic sampler back to a given picture (UniPortrait's style mode).

The schedule is the one of the published demo: scaled-linear betas, leading spacing, one step of offset, no clipping.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (latent, timestep) -> ε, both latents of the same shape; all adapters off, empty prompt.
NoiseModel = Callable[[Tensor, int], Tensor]


def scaled_linear_alphas(beta_start: float = 0.00085, beta_end: float = 0.012, num_train_steps: int = 1000) -> Tensor:
    """ᾱ of Stable Diffusion, (num_train_steps,) float64."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_steps, dtype=torch.float64) ** 2
    return (1.0 - betas).cumprod(0)


def sampling_timesteps(num_steps: int, num_train_steps: int = 1000, steps_offset: int = 1) -> list[int]:
    """Timesteps in sampling order, most noisy first, with leading spacing."""
    stride = num_train_steps // num_steps
    return [step * stride + steps_offset for step in reversed(range(num_steps))]


def invert(
    noise_model: NoiseModel, z0: Tensor, num_steps: int, alphas_cumprod: Tensor | None = None, steps_offset: int = 1
) -> Tensor:
    """Latents (num_steps + 1, *z0.shape) from the most noisy down to z0, the scaled latent of the picture.

    Entry 0 is where the reference row of the batch starts.
    As published, ε is evaluated at timestep t on the latent of the level before t, and the level before the first
    timestep is the first of the schedule.
    """
    alphas = scaled_linear_alphas() if alphas_cumprod is None else alphas_cumprod
    stride = len(alphas) // num_steps
    latents = [z0]
    for timestep in reversed(sampling_timesteps(num_steps, len(alphas), steps_offset)):
        z = latents[-1]
        noise = noise_model(z, timestep)
        alpha_from, alpha_to = float(alphas[max(timestep - stride, 0)]), float(alphas[timestep])
        clean = (z - (1.0 - alpha_from) ** 0.5 * noise) / alpha_from**0.5
        latents.append(alpha_to**0.5 * clean + (1.0 - alpha_to) ** 0.5 * noise)
    return torch.stack(latents[::-1])


def reference_latents(inverted: Tensor) -> Tensor:
    """What row 0 of the batch is set to after each sampler step, (num_steps, ...), from what `invert` returns.

    So the reference follows its inversion exactly, whatever the model predicts for it.
    """
    return inverted[1:]
