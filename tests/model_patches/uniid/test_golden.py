"""The published system inside ComfyUI: the prompt, calls of the UNet, a whole run (reference files 04, 05 and 07)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from likeness.adapters.prompt_tokens import match_norms

TOLERANCE = 1e-5  # of the largest value, where that is above 1; tests/golden/uniid/README.md
WHOLE_RUN = 1e-4  # of the largest value
WORDS = 77


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.fixture(scope="module")
def assembly(golden: Any) -> Any:
    return golden("uniid", "04_prompt_assembly")


@pytest.fixture(scope="module")
def norms(published: Any, assembly: Any) -> Any:
    """From ComfyUI's CLIP and the reference's names, as Name Norms computes them."""
    from likeness.model_patches.name_norms import names_norms

    config = assembly.metadata["config"]
    return names_norms(published.clip, config["names"], config["num_text_tokens"])


@pytest.fixture(scope="module")
def prompts(published: Any, assembly: Any) -> tuple[Any, Any]:
    """Positive and negative CONDITIONING, as CLIP Text Encode makes them."""
    config = assembly.metadata["config"]
    texts = config["prompt"].replace("<class word>", config["class_word"]), config["negative_prompt"]
    positive, negative = (published.clip.encode_from_tokens_scheduled(published.clip.tokenize(text)) for text in texts)
    return positive, negative


@pytest.fixture(scope="module")
def settings(assembly: Any) -> Any:
    """The reference's scales and merge step."""
    from likeness.model_patches.merge_step import MergeStep
    from likeness.model_patches.uniid_patch import Scales, UniidSettings

    config = assembly.metadata["config"]
    text, adapter = (
        Scales(*(config[f"{branch}_scale_{when}"] for when in ("before", "after"))) for branch in ("text", "adapter")
    )
    return UniidSettings(
        merge=MergeStep(config["start_merge_step"], config["num_inference_steps"]), text=text, adapter=adapter
    )


class TestPrompt:
    def test_norms_of_the_mean_name(self, assembly: Any, norms: Any) -> None:
        expected = torch.cat([assembly.tensors["names.norm_1"], assembly.tensors["names.norm_2"]], dim=1)
        assert_near(norms.values, expected)

    def test_prompts(self, assembly: Any, prompts: Any) -> None:
        for ((embeds, options),), name in zip(prompts, ("", "negative_"), strict=True):
            assert_near(embeds, assembly.tensors[f"prompt.{name}embeds"])
            assert_near(options["pooled_output"], assembly.tensors[f"prompt.{name}pooled"])

    def test_words_and_tokens_of_the_face(self, published: Any, assembly: Any, norms: Any) -> None:
        tokens, width = published.person.tokens, assembly.tensors["text.raw_tokens_1"].shape[-1]
        raw = torch.cat([assembly.tensors["text.raw_tokens_1"], assembly.tensors["text.raw_tokens_2"]], dim=-1)[0]
        assert_near(tokens["text"], raw)
        assert_near(match_norms(tokens["text"], norms.values, width), assembly.tensors["text.normalised_tokens"][0])
        assert_near(tokens["cond"], assembly.tensors["id.tokens"][0])
        assert_near(tokens["uncond"], assembly.tensors["id.zero_tokens"][0])

    def test_the_two_entries(self, published: Any, assembly: Any, norms: Any, prompts: Any, settings: Any) -> None:
        from likeness.model_patches.uniid import apply_uniid

        positive, _ = prompts
        _, entries, _, used = apply_uniid(
            published.model, positive, published.models, [published.person], settings, norms
        )
        assert used == "norms of 5 names"
        for (embeds, options), name in zip(entries, ("cond_before_merge", "cond_after_merge"), strict=True):
            assert_near(embeds, assembly.expected()[name][:, :WORDS])
            assert options["pooled_output"] is positive[0][1]["pooled_output"]

    def test_without_norms(self, published: Any, assembly: Any, prompts: Any, settings: Any) -> None:
        from likeness.model_patches.uniid import NO_NORMS, apply_uniid

        _, entries, _, used = apply_uniid(published.model, prompts[0], published.models, [published.person], settings)
        words = assembly.expected()["text_tokens_unnormalised"]
        assert used == NO_NORMS
        for (embeds, _), scale in zip(entries, settings.text, strict=True):
            assert_near(embeds[:, 1:4], scale * words)


@pytest.fixture(scope="module")
def reference(golden: Any) -> Any:
    return golden("uniid", "05_unet")


class TestUNet:
    def predict(self, published: Any, reference: Any, lab_of: Any, name: str, scale: float, rescaling: bool) -> Any:
        """The prediction for each row of a recorded call: negative rows, then positive ones, or positive ones only."""
        import comfy.samplers
        from likeness.adapters.identity import Identity
        from likeness.model_patches.uniid import apply_uniid
        from likeness.model_patches.uniid_patch import Scales, UniidSettings

        given = reference.part(f"{name}.")
        context, model, models = given["encoder_hidden_states"], published.model, published.models
        height, width, *_ = given["time_ids"][0].tolist()
        halves = {"cond": context[-1], "uncond": context[0]}  # of the wide call both are the positive prompt's
        person = Identity(
            models.system,
            models.weights.fingerprint,
            {**published.person.tokens, **{h: t[WORDS:] for h, t in halves.items()}},
        )
        settings = UniidSettings(text=Scales(0.0, 0.0), adapter=Scales(scale, scale), rescaling=rescaling)
        prompts = {
            half: [[text[None, :WORDS], {"pooled_output": pooled[None], "height": height, "width": width}]]
            for (half, text), pooled in zip(
                halves.items(), (given["text_embeds"][-1], given["text_embeds"][0]), strict=True
            )
        }
        patched, positive, _, used = apply_uniid(model, prompts["cond"], models, [person], settings)
        assert positive is prompts["cond"] and not used
        sigma = model.get_model_object("model_sampling").sigma(given["timestep"]).reshape(1)
        guided = len(context) > 1
        rows = given["sample"].chunk(1 + guided)[-1]
        assert all(torch.equal(chunk, rows) for chunk in given["sample"].chunk(1 + guided))

        def call(guider: Any, _: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
            x = rows * (sigma**2 + 1) ** 0.5  # ComfyUI's latents carry the noise level
            conds = [guider.conds[half] for half in ("positive", "negative")][: 1 + guided]
            out = comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigma.expand(len(x)), options)
            return torch.cat([(x - denoised) / sigma for denoised in reversed(out)])

        lab = lab_of(context=context.shape[-1])
        return lab.one_call(patched, call, sigma, rows, positive, prompts["uncond"])

    @pytest.mark.parametrize("name", ["before", "after", "wide"])
    def test_recorded_calls(self, published: Any, reference: Any, lab_of: Any, name: str) -> None:
        scale = float(reference.tensors[f"{name}.adapter_scale"])
        found = self.predict(published, reference, lab_of, name, scale, True)
        assert_near(found, reference.tensors[f"{name}.noise_pred"])

    def test_plain_addition(self, published: Any, reference: Any, lab_of: Any) -> None:
        scale = float(reference.tensors["after.adapter_scale"])
        found = self.predict(published, reference, lab_of, "after", scale, False)
        assert_near(found, reference.tensors["after.noise_pred_plain_scale"])

    def test_scale_zero(self, published: Any, reference: Any, lab_of: Any) -> None:
        found = self.predict(published, reference, lab_of, "after", 0.0, True)
        assert_near(found, reference.tensors["after.noise_pred_adapter_scale_0"])


def test_the_whole_run(
    golden: Any, published: Any, norms: Any, prompts: Any, settings: Any, watched: Callable[[Any], Any]
) -> None:
    """Through ComfyUI's Euler sampler and guider: what the UNet is given and gives at each step, and the latents."""
    import comfy.samplers
    from likeness.model_patches.uniid import apply_uniid

    run = golden("uniid", "07_trajectory")
    positive, negative = prompts
    patched, positive, *_ = apply_uniid(
        published.model, positive, published.models, [published.person], settings, norms
    )
    model, calls = watched(patched)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(run.metadata["config"]["guidance_scale"])
    sigmas, noise = run.tensors["sigmas"], run.tensors["latents_init"] / run.tensors["sigmas"][0]
    found = guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.sampler_object("euler"),
        sigmas.clone(),
        disable_pbar=True,
        seed=1,
    )
    assert_near(model.model.process_latent_in(found), run.tensors["latents_final"], WHOLE_RUN)
    words = match_norms(published.person.tokens["text"], norms.values, 16)
    for negative_half, name in ((False, "cond"), (True, "uncond")):
        seen = [call for call in calls if call.negative == negative_half]
        assert len(seen) == len(sigmas) - 1
        for step, call in enumerate(seen):
            assert_near(call.predicted, run.tensors[f"step{step}.noise_{name}"], WHOLE_RUN)
            assert_near(call.x, run.tensors[f"step{step}.unet_sample_cond"], WHOLE_RUN)
            if not negative_half:
                scale = run.tensors[f"step{step}.text_scale"]
                assert_near(call.context[0, 1:4], scale * words)
