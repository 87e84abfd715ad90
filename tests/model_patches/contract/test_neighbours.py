"""What every system's patch must do beside other packs' patches, before and after ours (docs/contract.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

SAME = {"rtol": 1e-4, "atol": 1e-4}  # equal up to the order of float32 sums


def test_effects_add_up_in_both_orders(additive_system: Any) -> None:
    system = additive_system
    plain = system.first_output(system.model)
    ours = system.first_output(system.apply(term_only=True)) - plain
    before = system.model.clone()
    system.set_slot(before, system.foreign())
    theirs = system.first_output(before) - plain
    assert theirs.abs().max() > 0
    both = system.first_output(system.apply(model=before, term_only=True)) - plain
    torch.testing.assert_close(both, ours + theirs, **SAME)
    after = system.apply(term_only=True).clone()
    system.set_slot(after, system.foreign(system.slot_of(after)))
    torch.testing.assert_close(system.first_output(after) - plain, ours + theirs, **SAME)


def test_packs_that_add_to_our_slot(attention_system: Any) -> None:
    system = attention_system
    plain = system.first_output(system.model)
    upstream = system.apply(term_only=True)
    ours = system.first_output(upstream) - plain
    model = upstream.clone()
    slot = system.slot_of(model)
    slot.add(lambda out, q, k, v, options, weight, **_: weight * q, weight=0.1, sigma_start=1e9, sigma_end=0.0)
    foreign = system.model.clone()
    system.set_slot(foreign, system.foreign())
    theirs = system.first_output(foreign) - plain
    torch.testing.assert_close(system.first_output(model) - plain, ours + theirs, **SAME)
    assert torch.equal(system.first_output(upstream) - plain, ours)  # nothing leaked into the cached MODEL


def test_their_sigma_range_is_kept(attention_system: Any) -> None:
    system = attention_system
    model = system.apply(term_only=True)
    without = system.first_output(model, percent=0.5)
    system.slot_of(model).add(lambda out, q, k, v, options, **_: q, sigma_start=0.1, sigma_end=0.0)
    assert torch.equal(system.first_output(model, percent=0.5), without)


def test_a_pack_that_adds_to_its_own_object_before_and_after_ours(attention_system: Any) -> None:
    """Its second node finds ours where its own object was; what both upstream models hold stays theirs."""
    system = attention_system
    theirs = AddingPatch(lambda out, q, k, v, options, **_: 0.1 * q)
    before, plainly = system.model.clone(), system.model.clone()
    system.set_slot(before, theirs)
    system.set_slot(plainly, system.foreign())
    ours = system.apply(model=before, term_only=True)
    out = system.first_output(ours)
    assert torch.equal(out, system.first_output(system.apply(model=plainly, term_only=True)))
    after = ours.clone()
    system.slot_of(after).add(lambda out, q, k, v, options, **_: 0.1 * q)
    added = system.first_output(plainly) - system.first_output(system.model)
    torch.testing.assert_close(system.first_output(after) - out, added, **SAME)
    assert len(theirs.callbacks) == 1 and system.slot_of(before) is theirs
    assert torch.equal(system.first_output(ours), out)


def test_a_wrapped_patch_is_still_moved_and_counted(system: Any) -> None:
    class Foreign:
        moved: list[Any] = []

        def __call__(self, *args: Any) -> Any:
            raise AssertionError("not called")

        def to(self, device: Any) -> Any:
            self.moved.append(device)
            return self

        def models(self) -> list[Any]:
            return ["weights"]

    before = system.model.clone()
    system.set_slot(before, Foreign())
    model = system.apply(model=before)
    model.model_patches_to(torch.device("cpu"))
    assert Foreign.moved == [torch.device("cpu")]
    assert model.model_patches_models() == ["weights"]


def test_other_lora_stays(system: Any) -> None:
    key = system.a_weight
    lora = system.model.clone()
    weight = lora.model.state_dict()[key]
    lora.add_patches({key: ("diff", (torch.full_like(weight, 0.05),))}, 1.0)
    assert len(system.apply(model=lora).patches[key]) >= 1
    alone = system.lab.sample(lora)
    assert not torch.equal(system.lab.sample(system.apply(model=lora)), alone)
    assert torch.equal(system.lab.sample(lora), alone)


def test_controlnets(system: Any) -> None:
    """What they add comes behind the first layer, which so gets the identity as without them."""
    lab, control = system.lab, make_control(system.grid)
    prompts = {"positive": lab.prompt(11, control=control), "negative": lab.prompt(12, control=control)}
    both, theirs = (lab.predict(model, **prompts).positive for model in (system.apply(), system.model))
    ours, plain = (lab.predict(model).positive for model in (system.apply(), system.model))
    assert min((both - one).abs().mean() for one in (theirs, ours)) > 1e-3 < (theirs - plain).abs().mean()
    assert torch.equal(lab.predict(system.apply(strength=0.0), **prompts).positive, theirs)
    layer, free = system.first_output(system.apply(), **prompts), system.first_output(system.apply())
    assert torch.equal(layer, free)


def test_img2img_and_inpainting(system: Any) -> None:
    lab, model = system.lab, system.apply()
    image, mask = lab.noise(seed=8), torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1.0
    out = lab.sample(model, latent_image=image, denoise_mask=mask)
    torch.testing.assert_close(out[..., :8], image[..., :8], **SAME)
    assert not torch.equal(out, lab.sample(system.model, latent_image=image, denoise_mask=mask))


class AddingPatch:
    """The object of the packs that gave slots their `add`: a list of callbacks over ComfyUI's attention."""

    def __init__(self, callback: Callable[..., torch.Tensor]) -> None:
        self.callbacks = [callback]

    def add(self, callback: Callable[..., torch.Tensor]) -> None:
        self.callbacks.append(callback)

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, options["n_heads"])
        for callback in self.callbacks:
            out = out + callback(out, q, k, v, options)
        return out


def make_control(grid: tuple[int, int]) -> Any:
    """A ControlNet without a network: it adds to a UNet's middle, and behind FLUX's first double block."""
    from comfy.controlnet import ControlBase

    class Constant(ControlBase):
        def get_control(self, *_: Any) -> dict[str, list[torch.Tensor]]:
            tokens = torch.randn(1, math.prod(grid), 64, generator=torch.Generator().manual_seed(9))
            return {"input": [tokens], "middle": [torch.full((1, 1, 1, 1), 2.0)], "output": []}

    return Constant()
