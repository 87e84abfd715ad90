"""DDIM inversion undoes DDIM sampling."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.inversion import invert, reference_latents, sampling_timesteps, scaled_linear_alphas


@pytest.mark.parametrize("steps", [1, 4, 20, 25, 30])
def test_sampling_leads_back(steps):
    """If the noise does not depend on the latent, inversion and sampling are exact opposites."""
    generator = torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(1, 4, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    alphas = scaled_linear_alphas()
    inverted = invert(lambda latent, timestep: noise * (1 + timestep / 1000), z0, steps)
    assert inverted.shape == (steps + 1, 1, 4, 6, 8)
    latent = inverted[0]
    for step, timestep in enumerate(sampling_timesteps(steps)):
        alpha, previous = alphas[timestep], alphas[max(timestep - 1000 // steps, 0)]
        eps = noise * (1 + timestep / 1000)
        latent = previous.sqrt() * (latent - (1 - alpha).sqrt() * eps) / alpha.sqrt() + (1 - previous).sqrt() * eps
        torch.testing.assert_close(latent, reference_latents(inverted)[step])
    torch.testing.assert_close(latent, z0)


def test_timesteps():
    assert sampling_timesteps(25) == list(range(961, 0, -40))
    assert sampling_timesteps(30)[:2] == [958, 925]


def test_the_model_is_asked_once_a_step_from_clean_to_noisy():
    asked = []

    def noise_model(latent, timestep):
        asked.append(timestep)
        return torch.zeros_like(latent)

    invert(noise_model, torch.ones(1, 4, 2, 2), 10)
    assert asked == sampling_timesteps(10)[::-1]
