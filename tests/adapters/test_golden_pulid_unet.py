"""A whole SDXL-shaped UNet in diffusers with PuLID in its cross-attention: the prototype of a trainer's host."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.id_encoder import IDEncoderSizes
from likeness.adapters.projection import with_zero_tokens
from likeness.adapters.pulid import PuLID, PuLIDSizes, load_pulid, save_pulid
from likeness.adapters.pulid_attention import PuLIDTerm
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 3e-5


def with_random_encoder(file, folder):
    """The adapter of the reference file through the loader; it has no encoder there, so that is random."""
    weights = file.weights("id_adapter_attn_layers.")
    context = file.metadata["config"]["unet"]["cross_attention_dim"]
    numbers = sorted({int(key.split(".")[0]) for key in weights})
    hidden = tuple(weights[f"{number}.id_to_k.weight"].shape[0] for number in numbers for _ in range(2))
    donor = PuLID(PuLIDSizes("pulid-v1", IDEncoderSizes(6, 8, (7, 7), (9, 9), 5, context), hidden))
    save_pulid(folder / "donor.safetensors", donor)
    tensors = load_file(folder / "donor.safetensors")
    tensors.update({f"id_adapter_attn_layers.{key}": value for key, value in weights.items()})
    save_file(tensors, folder / "pulid_v1.safetensors")
    return load_pulid(folder / "pulid_v1.safetensors")


@torch.no_grad()
def test_unet_tiny(golden, hosted, tmp_path):
    file = golden("pulid", "05_sdxl_unet_tiny")
    config, inputs, expected = file.metadata["config"], file.inputs(), file.expected()
    unet = diffusers.UNet2DConditionModel(**config["unet"])
    unet.load_state_dict(file.weights("unet."))
    adapter = with_random_encoder(file, tmp_path)
    layers = adapter.sizes.layers
    assert list(unet.attn_processors) == [f"{layer.diffusers}.processor" for layer in layers]
    terms = hosted(unet, layers)
    conditions = {name: inputs[name] for name in ("text_embeds", "time_ids")}

    def predict():
        arguments = inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]
        return unet(*arguments, added_cond_kwargs=conditions).sample

    def check(name):
        difference = (predict() - expected[f"noise_pred.{name}"]).abs().max().item()
        assert difference <= TOLERANCE, f"{name}: {difference:.2e}"

    check("no_id")
    assert len(config["runs"]) + 1 == len(expected)
    for form, num_zero, scale in config["runs"]:
        for number, projection in adapter.projections.items():
            kv = with_zero_tokens(projection(inputs["id_embedding"]), num_zero)
            terms[int(number)] = PuLIDTerm([kv], form, scale)
        assert len(terms) == sum(layer.is_cross for layer in layers)
        check(f"{form}.nz{num_zero}.s{scale}")
        terms.clear()
