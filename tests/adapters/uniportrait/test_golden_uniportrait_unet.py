"""A whole UNet in diffusers with our layers as its attention processors: the prototype of the trainer's host."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.layers import SD15_LAYERS
from likeness.adapters.resampler import ResamplerSizes
from likeness.adapters.uniportrait import UniPortrait, UniPortraitSizes, load_uniportrait, save_faceid
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4


class Processor:
    """What diffusers calls in place of its own attention."""

    def __init__(self, layer, adapter, state, run_cross, run_self):
        self.layer, self.adapter, self.state = layer, adapter, state
        self.run_cross, self.run_self = run_cross, run_self

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        if not self.layer.is_cross:
            return self.run_self(attention, self.adapter, hidden_states, self.state["options"])
        size = self.layer.grid(*self.state["latent_size"])
        inputs = {**self.state["inputs"], "text_tokens": encoder_hidden_states}
        run = self.run_cross(attention, self.adapter, hidden_states, inputs, self.state["options"], size)
        if run.logits is not None:
            self.state["routing"][self.layer.number] = run.logits.argmax(-1)
        return run.output


def with_random_parts(file, folder):
    """The adapter of the reference file; it has no resampler and no image projection, so these are random.

    The three files go to disk in the released layout and come back through the loader.
    """
    torch.manual_seed(0)
    config = file.metadata["config"]
    context, tokens = config["unet"]["cross_attention_dim"], config["num_faceid_tokens"]
    faceid = file.weights("uniportrait-faceid_sd15/")
    hidden = tuple(faceid[f"faceid_adapter.{layer.number}.to_q_lora.up.weight"].shape[0] for layer in SD15_LAYERS)
    resampler = ResamplerSizes(6, 8, 16, 1, 2, 8, tokens, context, 2)
    donor = UniPortrait(UniPortraitSizes(hidden, resampler, config["lora_rank"]))
    save_faceid(folder / "faceid.safetensors", donor)
    tensors = {key: value for key, value in load_file(folder / "faceid.safetensors").items() if "faceid_proj." in key}
    save_file({**tensors, **faceid}, folder / "faceid.safetensors", metadata={"likeness.heads": "2"})
    save_file(file.weights("uniportrait-router_sd15/"), folder / "router.safetensors")
    image = {
        "image_proj.proj.weight": torch.randn(config["num_ip_tokens"] * context, 6),
        "image_proj.proj.bias": torch.zeros(config["num_ip_tokens"] * context),
        "image_proj.norm.weight": torch.ones(context),
        "image_proj.norm.bias": torch.zeros(context),
    }
    save_file({**image, **file.weights("ip-adapter_sd15/")}, folder / "ip.safetensors")
    return load_uniportrait(*(folder / f"{name}.safetensors" for name in ("faceid", "router", "ip")))


@torch.no_grad()
def test_unet_tiny(golden, tmp_path, of_layer, run_cross, run_self):
    file = golden("uniportrait", "unet_tiny")
    unet = diffusers.UNet2DConditionModel(**file.metadata["config"]["unet"])
    unet.load_state_dict(file.weights("unet."))
    adapter = with_random_parts(file, tmp_path)
    state = {}
    unet.set_attn_processor(
        {
            f"{layer.diffusers}.processor": Processor(
                layer, of_layer(adapter, layer.number), state, run_cross, run_self
            )
            for layer in SD15_LAYERS
        }
    )
    assert file.cases()
    routed = 0
    for case in file.cases():
        inputs, expected, options = file.inputs(case), file.expected(case), file.metadata["cases"][case]
        state.update(inputs=inputs, options=options, latent_size=inputs["sample"].shape[-2:], routing={})
        noise = unet(inputs["sample"], inputs["timestep"], inputs["text_tokens"]).sample
        difference = (noise - expected["noise_pred"]).abs().max().item()
        assert difference <= TOLERANCE, f"{case}: {difference:.2e}"
        indices = {int(key.split(".")[1]): value for key, value in expected.items() if key.startswith("router_index.")}
        assert set(indices) == set(state["routing"]), case
        for number, index in indices.items():
            positive = state["routing"][number][index.shape[0] :]
            assert torch.equal(positive.to(torch.uint8), index), f"{case}, layer {number}"
            routed += 1
    assert routed or all(options.get("num_faceids", 0) < 2 for options in file.metadata["cases"].values())
