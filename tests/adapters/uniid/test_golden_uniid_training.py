"""A training step of each of UniID's branches: losses and gradients as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from likeness.adapters.prompt_tokens import insert_tokens
from torch import Tensor

# Of the largest value of a tensor. Computed in float64 the same gradients are up to 1.5e-4 from the file's, and up to
# 6e-5 from ours: so much of either is rounding, which this network's one-channel normalisations enlarge.
GRADIENTS = 3e-4


@dataclass
class TrainingStep:
    """What both runs of file 08 begin with: faces of which some are dropped, noisy latents, and the captions."""

    file: Any
    face: Tensor
    maps: list[Tensor]
    noisy: Tensor
    text: Tensor
    conditions: dict[str, Tensor]

    def check(self, run, system, noise, assert_near) -> None:
        """Prediction, loss, and the gradients that are listed for a run."""
        expected = self.file.part(f"{run}.")
        assert_near(noise, expected["noise_pred"], "noise")
        loss = torch.nn.functional.mse_loss(noise, self.file.inputs()["noise"])
        assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-6)
        system.adapter.zero_grad()
        loss.backward()
        gradients = {key.removeprefix("grad."): value for key, value in expected.items() if key.startswith("grad.")}
        assert len(gradients) >= 5
        for name, gradient in gradients.items():
            own = system.adapter.get_parameter(container_name(name)).grad
            assert_near(own, gradient, name, GRADIENTS, floor=0.0)


def container_name(released: str) -> str:
    """The released name of a parameter in our container."""
    parts = {
        "adapter_branch.adapter_resampler.": "resampler.",
        "adapter_branch.adapter_modules.": "projections.",
        "adapter_branch.": "resampler.",
        "_ip.": ".",
    }
    for theirs, ours in parts.items():
        released = released.replace(theirs, ours)
    return released


@pytest.fixture(scope="module")
def training_step(system, golden, assert_near) -> TrainingStep:
    file = golden("uniid", "08_train_step")
    inputs = file.inputs()
    kept = (~inputs["drop_mask"]).float()
    betas = {key: system.config["scheduler"][key] for key in ("beta_start", "beta_end")}
    roots = torch.linspace(*(beta**0.5 for beta in betas.values()), system.config["scheduler"]["num_train_timesteps"])
    signal = (1 - roots**2).cumprod(0)[inputs["timesteps"]][:, None, None, None]
    noisy = signal.sqrt() * inputs["latents"] + (1 - signal).sqrt() * inputs["noise"]
    assert_near(noisy, file.tensors["mid.noisy_latents"], "noisy latents")
    text, pooled = system.encode([inputs["token_ids_1"], inputs["token_ids_2"]])
    assert_near(text, file.tensors["mid.text_embeds"], "captions")
    assert_near(pooled, file.tensors["mid.pooled"], "pooled")
    face = kept[:, None] * inputs["output"]
    maps = [kept[:, None, None, None] * inputs[f"hidden_{level}"] for level in range(4)]
    return TrainingStep(file, face, maps, noisy, text, {"text_embeds": pooled, "time_ids": inputs["time_ids"]})


def test_training_step_of_the_text_branch(system, training_step, assert_near):
    words = torch.cat(system.adapter.text_branch(training_step.face, training_step.maps[-1]), dim=-1)
    text = insert_tokens(training_step.text, words)
    assert_near(text, training_step.file.tensors["text_run.encoder_hidden_states"], "context")
    system.terms.clear()
    noise = system.unet(
        training_step.noisy,
        training_step.file.inputs()["timesteps"],
        text,
        added_cond_kwargs=training_step.conditions,
    ).sample
    training_step.check("text_run", system, noise, assert_near)


def test_training_step_of_the_adapter_branch(system, training_step, assert_near):
    config, timesteps = training_step.file.metadata["config"], training_step.file.inputs()["timesteps"]
    tokens = system.adapter.resampler(training_step.maps)
    assert_near(tokens, training_step.file.tensors["adapter_run.id_tokens"], "tokens")
    rescaling, scale = config["normalize_adapter_output"], config["adapter_scale"]
    noise = system.predict(
        training_step.noisy, timesteps, training_step.text, tokens, training_step.conditions, scale, rescaling
    )
    training_step.check("adapter_run", system, noise, assert_near)
