"""A whole SDXL-shaped U-Net in diffusers with UniID in its cross-attention, one call at a time and a sampling run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

WHOLE_RUN = 1e-4  # of the largest value


def call_inputs(file, name) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Sample, timestep and context of a recorded call, and the size conditions."""
    call = file.part(f"{name}.")
    inputs = [call[key] for key in ("sample", "timestep", "encoder_hidden_states")]
    return inputs, {key: call[key] for key in ("text_embeds", "time_ids")}


@torch.no_grad()
def test_unet(system, golden, assert_near):
    file = golden("uniid", "05_unet")
    num_tokens, checked = file.metadata["config"]["num_id_tokens"], []
    for name in sorted({key.split(".")[0] for key in file.tensors}):
        (sample, timestep, context), conditions = call_inputs(file, name)
        scale = file.tensors[f"{name}.adapter_scale"].item()
        runs = {"": (scale, True), "_plain_scale": (scale, False), "_adapter_scale_0": (0.0, True)}
        for suffix, (factor, rescaling) in runs.items():
            expected = file.tensors.get(f"{name}.noise_pred{suffix}")
            if expected is not None:
                text, tokens = context[:, :-num_tokens], context[:, -num_tokens:]
                noise = system.predict(sample, timestep, text, tokens, conditions, factor, rescaling)
                assert_near(noise, expected, name + suffix)
                checked.append(name + suffix)
    assert len(checked) == sum(".noise_pred" in key for key in file.tensors) >= 3


@torch.no_grad()
def test_an_adapter_that_gives_zeros_leaves_the_unet_as_it_is(system, golden):
    """Bit for bit, with plain addition and with rescaling: what a fresh adapter gives."""
    file = golden("uniid", "05_unet")
    num_tokens = file.metadata["config"]["num_id_tokens"]
    (sample, timestep, context), conditions = call_inputs(file, "after")
    text, tokens = context[:, :-num_tokens], torch.zeros_like(context[:, -num_tokens:])
    without = system.predict(sample, timestep, text, tokens, conditions)
    for rescaling in (False, True):
        assert torch.equal(system.predict(sample, timestep, text, tokens, conditions, 1.2, rescaling), without)


@torch.no_grad()
def test_trajectory(system, assembly, contexts, golden, assert_near):
    """Euler's method from the stored noise, with the scales that the merge step prescribes."""
    file = golden("uniid", "07_trajectory")
    config, x, sigmas = file.metadata["config"], file.tensors["latents_init"], file.tensors["sigmas"]
    rows = len(x)
    pooled = torch.cat([assembly.tensors["prompt.negative_pooled"], assembly.tensors["prompt.pooled"]])
    time_ids = golden("uniid", "05_unet").tensors["before.time_ids"][:1].expand(2 * rows, -1)
    conditions = {"text_embeds": pooled.repeat_interleave(rows, dim=0), "time_ids": time_ids}
    assert len(sigmas) == config["num_inference_steps"] + 1
    for step, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        recorded = file.part(f"step{step}.")
        when = "before" if step < config["start_merge_step"] else "after"
        text_scale, scale = config[f"text_scale_{when}"], config[f"adapter_scale_{when}"]
        assert (text_scale, scale) == pytest.approx([recorded[f"{k}_scale"].item() for k in ("text", "adapter")])
        positive, negative, cond, uncond = contexts(text_scale)
        text, tokens = (
            torch.cat(halves).repeat_interleave(rows, dim=0) for halves in ((negative, positive), (uncond, cond))
        )
        sample = x / (sigma**2 + 1) ** 0.5
        assert_near(sample, recorded["unet_sample_cond"], f"step {step}: sample", WHOLE_RUN)
        timestep = file.tensors["timesteps"][step]
        noise = system.predict(sample.repeat(2, 1, 1, 1), timestep, text, tokens, conditions, scale)
        without, with_face = noise.chunk(2)
        assert_near(without, recorded["noise_uncond"], f"step {step}: negative", WHOLE_RUN)
        assert_near(with_face, recorded["noise_cond"], f"step {step}: positive", WHOLE_RUN)
        direction = without + config["guidance_scale"] * (with_face - without)
        x = x + direction * (following - sigma)
    assert_near(x, file.tensors["latents_final"], "end", WHOLE_RUN)
