"""PuLID beside other packs: step caches with a loop of their own, packed weights, packs that overwrite slots."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest
import torch
from likeness.adapters.pulid_attention import Injection

SAME = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def apply(make_pulid: Any, pulid_people: Any) -> Any:
    """`apply(model, edition, people=[0])` -> the patched model."""
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    def run(model: Any, edition: str, people: Any = (0,)) -> Any:
        models = make_pulid(edition)
        return apply_pulid(model, models, pulid_people(models, people), PulidSettings(Injection()))[0]

    return run


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("likeness")]


class StepCache:
    """A pack that goes through FLUX's blocks itself, as ComfyUI did before blocks were given transformer_options.

    While a run lasts it takes the place of ComfyUI's loop; what a step's blocks added is added again in the steps that
    it leaves out.
    """

    def __init__(self, computed: int) -> None:
        self.computed = computed  # one step in so many
        self.step = 0
        self.residual: torch.Tensor | None = None

    def install(self, model: Any) -> Any:
        clone = model.clone()
        network = clone.model.diffusion_model

        def wrapper(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
            def loop(*args: Any, **kwargs: Any) -> torch.Tensor:
                return self.loop(network, *args, **kwargs)

            with mock.patch.object(network, "forward_orig", loop):
                return apply_model(call["input"], call["timestep"], **call["c"])

        clone.set_model_unet_function_wrapper(wrapper)
        return clone

    def loop(
        self,
        network: Any,
        img: torch.Tensor,
        img_ids: torch.Tensor,
        txt: torch.Tensor,
        txt_ids: torch.Tensor,
        timesteps: torch.Tensor,
        y: torch.Tensor,
        guidance: torch.Tensor,
        *_: Any,
        transformer_options: dict[str, Any],
        **__: Any,
    ) -> torch.Tensor:
        from comfy.ldm.flux.layers import timestep_embedding

        slots = transformer_options.get("patches_replace", {}).get("dit", {})
        img, txt = network.img_in(img), network.txt_in(txt)
        vec = network.time_in(timestep_embedding(timesteps, 256)) + network.vector_in(y)
        vec = vec + network.guidance_in(timestep_embedding(guidance, 256))
        pe = network.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
        if self.step % self.computed == 0:
            before = img
            for index, block in enumerate(network.double_blocks):

                def double(args: dict[str, Any], block: Any = block) -> dict[str, Any]:
                    out = block(img=args["img"], txt=args["txt"], vec=args["vec"], pe=args["pe"])
                    return {"img": out[0], "txt": out[1]}

                patch = slots.get(("double_block", index), lambda args, extra: extra["original_block"](args))
                out = patch({"img": img, "txt": txt, "vec": vec, "pe": pe}, {"original_block": double})
                img, txt = out["img"], out["txt"]
            img = torch.cat((txt, img), 1)
            for index, block in enumerate(network.single_blocks):

                def single(args: dict[str, Any], block: Any = block) -> dict[str, Any]:
                    return {"img": block(args["img"], vec=args["vec"], pe=args["pe"])}

                patch = slots.get(("single_block", index), lambda args, extra: extra["original_block"](args))
                img = patch({"img": img, "vec": vec, "pe": pe}, {"original_block": single})["img"]
            img = img[:, txt.shape[1] :]
            self.residual = img - before
        else:
            assert self.residual is not None
            img = img + self.residual
        self.step += 1
        return network.final_layer(img, vec)


@pytest.mark.parametrize("people", [[0], [0, 1]])
def test_a_loop_of_another_packs_own_is_comfyuis(make_flux: Any, lab_of_base: Any, apply: Any, people: Any) -> None:
    lab, model = lab_of_base("FLUX"), make_flux()
    patched = apply(model, "pulid-flux", people)
    cache = StepCache(computed=1)
    torch.testing.assert_close(lab.sample(cache.install(patched)), lab.sample(patched), **SAME)
    assert cache.step == 3
    assert torch.equal(lab.sample(model), lab.sample(model.clone()))


def test_a_cache_of_whole_steps_carries_the_identity_on(
    make_flux: Any, lab_of_base: Any, apply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lab, model = lab_of_base("FLUX"), make_flux()
    with caplog.at_level(logging.WARNING, "likeness"):
        found = lab.sample(StepCache(computed=2).install(apply(model, "pulid-flux")), steps=4)
    plain = lab.sample(StepCache(computed=2).install(model), steps=4)
    assert torch.isfinite(found).all() and (found - plain).abs().mean() > 0.01
    assert warnings(caplog) == []


@pytest.mark.parametrize(("left", "warned"), [(0, True), (2, True), (6, False)])
def test_a_pack_that_overwrites_slots_is_reported(
    make_sdxl: Any, lab_of_base: Any, apply: Any, caplog: pytest.LogCaptureFixture, left: int, warned: bool
) -> None:
    """The tiny SDXL has 17 such layers."""
    from comfy.ldm.modules.attention import optimized_attention

    def theirs(q: Any, k: Any, v: Any, options: dict[str, Any]) -> torch.Tensor:
        return optimized_attention(q, k, v, options["n_heads"])

    lab, model = lab_of_base("SDXL"), make_sdxl()
    patched = apply(model, "pulid-v1.1").clone()
    keys = sorted(patched.model_options["transformer_options"]["patches_replace"]["attn2"])
    for key in keys[left:]:
        patched.set_model_attn2_replace(theirs, *key)
    with caplog.at_level(logging.WARNING, "likeness"):
        found = lab.sample(patched, steps=2)
    assert torch.equal(found, lab.sample(model, steps=2)) == (left == 0)
    assert len(warnings(caplog)) == warned
    if warned:
        assert f"the identity reached only {2 * left} of the 34 layers of this run" in warnings(caplog)[0]


class Packed(torch.nn.Module):
    """A linear layer whose weights nobody else can read: bytes in a row, with one scale for each output."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("packed", (linear.weight / scale).round().to(torch.int8).flatten().view(torch.uint8))
        self.register_buffer("shift", linear.bias.clone() if linear.bias is not None else None)

    def unpacked(self) -> torch.Tensor:
        return self.packed.view(torch.int8).view(self.out_features, -1).float() * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.unpacked().to(x), self.shift)


def pack(network: torch.nn.Module) -> None:
    """Put all weights of linear layers away in bytes, as packs for quantised files do."""
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, Packed(module))


@pytest.mark.parametrize(("base", "edition"), [("SDXL", "pulid-v1.1"), ("FLUX", "pulid-flux")])
def test_packed_weights_of_the_model_are_never_read(
    make_sdxl: Any, make_flux: Any, lab_of_base: Any, apply: Any, base: str, edition: str
) -> None:
    """Only the layers' own calls may unpack them: the picture is that of the same weights unpacked."""
    lab, make = lab_of_base(base), make_sdxl if base == "SDXL" else make_flux
    packed, wide = make(), make()
    pack(packed.model.diffusion_model)
    for name, module in packed.model.diffusion_model.named_modules():
        if isinstance(module, Packed):
            wide.model.diffusion_model.get_submodule(name).weight.copy_(module.unpacked())
    found, expected = (lab.sample(apply(model, edition, [0, 1])) for model in (packed, wide))
    torch.testing.assert_close(found, expected, **SAME)
    assert (found - lab.sample(packed)).abs().mean() > 0.01


@pytest.mark.parametrize("order", ["before", "after", "both"])
def test_a_patch_for_whole_blocks_counts_in_any_order(make_sdxl: Any, lab_of_base: Any, apply: Any, order: str) -> None:
    """Some packs fill the slot of a block, not of each transformer in it; ours, under the longer name, come first."""
    from comfy.ldm.modules.attention import optimized_attention

    def patch_for(amount: float, previous: Any = None) -> Any:
        def theirs(q: Any, k: Any, v: Any, options: dict[str, Any]) -> torch.Tensor:
            out = previous(q, k, v, options) if previous else optimized_attention(q, k, v, options["n_heads"])
            return out + amount * q

        return theirs

    lab, plain, first = lab_of_base("SDXL"), make_sdxl(), patch_for(0.1)
    expected = plain.clone()
    for block in (("input", 4), ("middle", 0)):
        expected.set_model_attn2_replace(patch_for(0.1 if order == "before" else 0.2), *block)
    whole = lab.predict(apply(expected, "pulid-v1.1")).positive  # one before ours
    model = plain.clone()
    for block in (("input", 4), ("middle", 0)):
        if order != "after":
            model.set_model_attn2_replace(first, *block)
    patched = apply(model, "pulid-v1.1")
    for block in (("input", 4), ("middle", 0)):
        if order != "before":
            again = patch_for(0.2) if order == "after" else patch_for(0.1, first)
            patched.set_model_attn2_replace(again, *block)
    torch.testing.assert_close(lab.predict(patched).positive, whole, **SAME)
    alone = lab.predict(apply(plain, "pulid-v1.1")).positive
    assert (whole - alone).abs().mean() > 1e-3
