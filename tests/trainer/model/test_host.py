"""The diffusers host: the published network's numbers, precision, recomputation and compilation."""

from __future__ import annotations

import diffusers
import pytest
import torch
from likeness.adapters.layers import SD15_LAYERS
from likeness.adapters.resampler import IDResampler, ResamplerSizes
from likeness.adapters.uniportrait import UniPortrait, load_uniportrait
from likeness.trainer.model.base_model import load_base_model
from likeness.trainer.model.host import DiffusersHost
from likeness.trainer.model.uniportrait import UniPortraitTraining
from safetensors.torch import save_file

TOLERANCE = 1e-4  # tests/golden/uniportrait/README.md


@pytest.fixture(scope="module")
def reference(golden):
    return golden("uniportrait", "unet_tiny")


@pytest.fixture(scope="module")
def published(reference, tmp_path_factory) -> UniPortrait:
    """The reference file's adapter through files; it has no resampler, so that is random."""
    folder, config = tmp_path_factory.mktemp("published"), reference.metadata["config"]
    sizes = ResamplerSizes(6, 8, 16, 1, 2, 8, config["num_faceid_tokens"], config["unet"]["cross_attention_dim"], 2)
    resampler = {f"faceid_proj.{key}": value for key, value in IDResampler(sizes).state_dict().items()}
    faceid = {**resampler, **reference.weights("uniportrait-faceid_sd15/")}
    save_file(faceid, folder / "faceid.safetensors", metadata={"likeness.heads": "2"})
    save_file(reference.weights("uniportrait-router_sd15/"), folder / "router.safetensors")
    return load_uniportrait(folder / "faceid.safetensors", folder / "router.safetensors")


@torch.no_grad()
def test_the_published_unets_numbers(reference, published):
    unet = diffusers.UNet2DConditionModel(**reference.metadata["config"]["unet"])
    unet.load_state_dict(reference.weights("unet."))
    host = DiffusersHost(unet, published)
    tested = set()
    for case in reference.cases():
        options, inputs = reference.metadata["cases"][case], reference.inputs(case)
        if options.get("ip_scale") or options.get("enable_share_attn") or "faceid_mask" in inputs:
            continue  # what training has no use for
        count, call = options.get("num_faceids", 0), None
        if count:
            call = host.prepare(
                inputs["faceid_tokens"].unflatten(1, (count, -1)),
                "lora_single" if count == 1 else "lora_multi",
                id_scale=options.get("faceid_scale", 0.0),
                lora_scale=options.get("lora_scale" if count == 1 else "multi_id_lora_scale", 0.0),
            )
        expected = reference.expected(case)
        found = host(inputs["sample"], inputs["timestep"], inputs["text_tokens"], call)
        assert (found - expected["noise_pred"]).abs().max() < TOLERANCE, case
        indices = {int(key.split(".")[1]): v for key, v in expected.items() if key.startswith("router_index.")}
        assert set(indices) == (set(call.logits) if call else set()), case
        for number, index in indices.items():
            assert torch.equal(call.logits[number].argmax(-1)[len(index) :].to(torch.uint8), index), (case, number)
        tested.add(count)
    assert tested >= {0, 1, 2}, tested


def grads_of(training, batch):
    training.zero_grad()
    losses = training(batch)
    losses.total.backward()
    grads = {name: p.grad.clone() for name, p in training.named_parameters() if p.grad is not None}
    return losses.total.detach(), grads


def assert_same(one, other, tolerance):
    torch.testing.assert_close(one[0], other[0], atol=tolerance, rtol=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(other[1][name], grad, atol=tolerance, rtol=100 * tolerance, msg=name)


@pytest.mark.parametrize("stage", [1, 2])
def test_recomputation_changes_nothing(stage, make_training, make_batch):
    batch = make_batch([1, 1] if stage == 1 else [2, 1])
    plain = make_training(stage, loose=True)
    expected = grads_of(plain, batch)
    saving = make_training(stage, loose=True, gradient_checkpointing=True)
    calls = count_calls(saving.base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q)
    assert_same(expected, grads_of(saving, batch), 1e-6)
    assert len(calls) == 2  # forward, and again in the backward pass


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_unet_keeps_float32_weights(dtype, world, encoders, make_training, make_batch):
    full = make_training(2, loose=True)
    half_base = load_base_model(world / "base", "cpu", dtype)
    training = UniPortraitTraining(half_base, full.adapter, full.settings, 3, encoders)
    assert half_base.unet.conv_in.weight.dtype == dtype
    total, grads = grads_of(training, make_batch([2, 2]))
    assert {p.dtype for p in training.parameters()} == {torch.float32}
    assert total.dtype == torch.float32 and all(torch.isfinite(grad).all() for grad in grads.values())
    torch.testing.assert_close(total, full(make_batch([2, 2])).total.detach(), atol=0.05, rtol=0.05)
    with torch.autocast("cpu", dtype):  # what accelerate puts around it
        torch.testing.assert_close(training(make_batch([2, 2])).total, total, atol=0.02, rtol=0.02)


def test_two_adapters_share_a_unet(make_training, make_batch):
    first, second = make_training(1, loose=True), make_training(1)
    with torch.no_grad():
        second.adapter.lora_single["0"].to_q.up.weight.fill_(1.0)
    batch = make_batch([1])
    before = first(batch).total
    assert not torch.allclose(second(batch).total, before)
    assert torch.equal(first(batch).total, before)


@torch.no_grad()
def test_joined_tokens_are_one_block_without_padding(make_training):
    training = make_training(2, loose=True)
    host, generator = training.host, torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 3, 6, 32, generator=generator)
    latents, text = torch.randn(2, 4, 16, 8, generator=generator), torch.randn(2, 77, 32, generator=generator)
    steps = torch.tensor([10, 500])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    both = host(latents, steps, text, host.prepare(tokens, "lora_multi", valid, joined=True))
    one = host.prepare(tokens[:1, :2].reshape(1, 1, 12, 32), "lora_multi", joined=True)
    torch.testing.assert_close(both[:1], host(latents[:1], steps[:1], text[:1], one), atol=1e-5, rtol=1e-5)
    shuffled = host.prepare(tokens[:, [2, 0, 1]], "lora_multi", valid[:, [2, 0, 1]], joined=True)
    torch.testing.assert_close(host(latents, steps, text, shuffled), both, atol=1e-5, rtol=1e-5)
    assert not shuffled.logits
    routed = host(latents, steps, text, host.prepare(tokens, "lora_multi", valid))
    assert not torch.allclose(routed, both, atol=1e-3)


def test_without_a_call_it_is_the_base_model(make_training, world):
    training = make_training(2, loose=True)
    plain = load_base_model(world / "base", "cpu", torch.float32).unet
    latents, text = torch.randn(1, 4, 16, 8), torch.randn(1, 77, 32)
    with torch.no_grad():
        expected = plain(latents, torch.tensor([3]), text).sample
        torch.testing.assert_close(training.host(latents, torch.tensor([3]), text), expected, atol=1e-5, rtol=1e-5)


def test_soft_routing_is_a_mixture(make_training, make_batch):
    training = make_training(2, loose=True, routing={"hard": False, "temperature": 2.0})
    batch = make_batch([2])
    loss = training(batch)
    loss.total.backward()
    hard = UniPortraitTraining(
        training.base,
        training.adapter,
        training.settings.model_copy(update={"routing": training.settings.routing.model_copy(update={"hard": True})}),
        3,
        training.tokens.encoders,
    )
    torch.testing.assert_close(hard(batch).routing, loss.routing, atol=0.01, rtol=0.5)  # later layers see other inputs
    assert not torch.allclose(hard(batch).diffusion, loss.diffusion, atol=1e-6)


def test_the_layers_are_in_the_order_of_the_files(make_training):
    training = make_training(1)
    names = list(training.base.unet.attn_processors)
    assert {f"{layer.diffusers}.processor" for layer in SD15_LAYERS} == set(names)
    assert all(training.base.unet.attn_processors[f"{x.diffusers}.processor"].number == x.number for x in SD15_LAYERS)
