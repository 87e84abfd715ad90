"""A training step: what is trained, what a dropped part means, padding, files, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.adapters.uniportrait import load_uniportrait
from likeness.trainer.batch import FaceFeatures
from likeness.trainer.model.settings import DroppingSettings
from likeness.trainer.model.uniportrait import UniPortraitTraining
from likeness.trainer.model.weights import load_adapter, new_adapter, with_router
from pydantic import ValidationError

NOTHING_DROPPED = {"face": 0, "text": 0, "both": 0, "structure_path": 0, "structure_tokens": 0, "other_photo": 0}
TRAINED = {1: {"resampler", "projections", "lora_single"}, 2: {"routers", "lora_multi"}}


@pytest.mark.parametrize("stage", [1, 2])
def test_what_is_trained(stage, make_training, make_batch):
    training = make_training(stage, loose=True)
    frozen = {name: p for name, p in training.named_parameters() if not p.requires_grad}
    trained = {name: p for name, p in training.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} == TRAINED[stage]
    assert all(name.startswith("adapter.") for name in training.state_dict())
    training(make_batch([1, 1] if stage == 1 else [2, 3])).total.backward()
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert sum(bool(p.grad.any()) for p in trained.values()) > 0.9 * len(trained)
    assert [name for name, p in frozen.items() if p.grad is not None] == []
    base, encoders = training.base, training.tokens.encoders
    nets = (base.unet, base.text.model, base.vae.vae, encoders.backbone, encoders.tower)
    assert [p for net in nets for p in net.parameters() if p.requires_grad or p.grad is not None] == []


def test_parameter_groups(make_training):
    identity = make_training(1).parameter_groups(2e-4)
    assert [(group["name"], group["lr"]) for group in identity] == [("identity", 2e-4)]
    groups = {group["name"]: group for group in make_training(2).parameter_groups(1e-5, 0.1)}
    assert groups["router"]["lr"] == 1e-5 and groups["lora"]["lr"] == pytest.approx(1e-6)
    assert len(groups["router"]["params"]) == 16 * 8 and len(groups["lora"]["params"]) == 32 * 8
    without = make_training(2, routing={"mode": "none"}).parameter_groups()
    assert [group["name"] for group in without] == ["lora"]


def test_the_losses_are_means_over_samples(make_training, make_batch):
    losses = make_training(2, loose=True, dropping=NOTHING_DROPPED)(make_batch([2, 3, 2]))
    assert losses.diffusion.shape == losses.routing.shape == losses.timesteps.shape == (3,)
    assert (losses.routing > 0).all()
    torch.testing.assert_close(losses.total, (losses.diffusion + losses.routing).mean())
    assert make_training(2, routing={"loss_weight": 0.0})(make_batch([2])).routing.tolist() == [0.0]


def test_a_sample_alone_is_the_sample_in_a_padded_batch(make_training, make_batch):
    training = make_training(2, loose=True)
    positions = [2, 3, 4, 5]
    together = training(make_batch([2, 3, 1, 2], positions, padded=4))
    for row, (count, position) in enumerate(zip([2, 3, 1, 2], positions, strict=True)):
        alone = training(make_batch([count], [position]))
        torch.testing.assert_close(alone.diffusion[0], together.diffusion[row], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone.routing[0], together.routing[row], atol=1e-7, rtol=1e-5)


def test_padding_gives_the_same_gradients(make_training, make_batch):
    training = make_training(2, loose=True)
    grads = []
    for padded in (2, 4):
        training.zero_grad()
        training(make_batch([2, 2], padded=padded)).total.backward()
        grads.append({name: p.grad.clone() for name, p in training.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-4, msg=name)


def test_droppath_is_no_structure_branch(make_training, make_batch):
    training = make_training(1, dropping={**NOTHING_DROPPED, "structure_path": 1.0})
    batch = make_batch([1, 1])
    draws = training.draw(batch)
    assert draws.structure_scale.tolist() == [0.0, 0.0]
    features = training.tokens.encoders.features(batch.crops[:, 0])
    expected = training.adapter.resampler(features.intrinsic, features.structure, 0.0)
    torch.testing.assert_close(training.tokens.of_batch(batch, draws)[:, 0], expected)
    whole = training.tokens.of_batch(batch, replace(draws, structure_scale=torch.tensor([0.0, 1.0])))[:, 0]
    torch.testing.assert_close(whole[0], expected[0])
    assert (whole[1] - expected[1]).abs().max() > 1e-3


def test_droptoken_hides_structure_tokens(make_training, make_batch):
    training = make_training(1, dropping={**NOTHING_DROPPED, "structure_tokens": 1.0, "token_rate": 0.5})
    batch = make_batch([1])
    draws = training.draw(batch)
    kept = draws.structure_keep[0, 0]
    features = training.tokens.encoders.features(batch.crops[:, 0])
    found = training.tokens.of_batch(batch, draws)[:, 0]
    torch.testing.assert_close(found, training.adapter.resampler(features.intrinsic, features.structure[:, kept]))
    assert not torch.allclose(found, training.adapter.resampler(features.intrinsic, features.structure))


def test_without_face_condition_everybody_is_nobody(make_training, make_batch):
    training = make_training(2, loose=True, dropping={**NOTHING_DROPPED, "both": 1.0})
    batch = make_batch([2, 3])
    draws = training.draw(batch)
    assert draws.drop_face.all() and all(draws.drop_text)
    tokens = training.tokens.of_batch(batch, draws)
    nobody = training.tokens.nobody
    expected = training.adapter.resampler(nobody.intrinsic, nobody.structure)[0]
    torch.testing.assert_close(tokens, expected.expand_as(tokens))
    losses = training(batch)
    assert losses.routing.tolist() == [0.0, 0.0]
    torch.testing.assert_close(training(replace(batch, captions=("x", "y"))).diffusion, losses.diffusion)


def test_another_photo_gives_only_the_intrinsic_features(make_training, make_batch):
    training = make_training(1, dropping={**NOTHING_DROPPED, "other_photo": 1.0})
    batch = make_batch([1, 1])
    other = make_batch([1, 1], [8, 9]).crops[:, 0]
    batch = replace(batch, other_crops=other, has_other=torch.tensor([True, False]))
    own, theirs = (training.tokens.encoders.features(crops) for crops in (batch.crops[:, 0], other))
    expected = training.adapter.resampler(theirs.intrinsic[:1], own.structure[:1])
    tokens = training.tokens.of_batch(batch, training.draw(batch))
    torch.testing.assert_close(tokens[0], expected)
    torch.testing.assert_close(tokens[1, 0], training.adapter.resampler(own.intrinsic[1:], own.structure[1:])[0])
    cached = replace(batch, other_crops=None, other_intrinsic=theirs.intrinsic)
    torch.testing.assert_close(training.tokens.of_batch(cached, training.draw(cached)), tokens)


def test_caches_are_as_good_as_pictures(make_training, make_batch, base, make_settings):
    training = make_training(2, loose=True)
    batch = make_batch([2, 3])
    features = training.tokens._batch_features(batch)
    latents = torch.stack(training.base.vae(batch.pixels), 1)
    cached = replace(batch, crops=None, pixels=None, features=features, latents=latents)
    bare = UniPortraitTraining(
        replace(base, vae=None), training.adapter, training.settings, 3, unconditional=training.tokens.nobody
    )
    expected = training(batch)
    torch.testing.assert_close(bare(cached).total, expected.total)
    with pytest.raises(ValueError, match="no VAE was loaded"):
        bare(replace(cached, latents=None, pixels=batch.pixels))
    with pytest.raises(ValueError, match="no face encoders"):
        bare(replace(cached, features=None, crops=batch.crops))


def test_the_global_embedding_has_no_structure_branch(make_training, make_batch, base, make_settings):
    training = make_training(1, intrinsic="global")
    batch = make_batch([1, 1])
    losses = training(batch)
    losses.total.backward()
    structure = [n for n, p in training.named_parameters() if ("proj_clip" in n or ".1." in n.split("layers")[-1][2:5])]
    assert structure
    trained = {name for name, p in training.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in training.parameters() if p.requires_grad)
    assert "adapter.resampler.proj_clip.0.weight" not in trained
    assert "adapter.resampler.layers.0.1.to_q.weight" not in trained
    assert "adapter.resampler.layers.1.0.to_q.weight" in trained
    assert training.adapter.resampler.proj_id[0].in_features == 20
    crops = batch.crops[0]
    one, other = (training.tokens.identities([crops], beta)[0] for beta in (0.0, 1.0))
    assert torch.equal(one.tokens["cond"], other.tokens["cond"])
    features = training.tokens._batch_features(batch)
    bare = UniPortraitTraining(
        base,
        training.adapter,
        training.settings,
        3,
        unconditional=training.tokens.encoders.unconditional(),
        head=training.tokens.encoders.head(),
    )
    torch.testing.assert_close(bare(replace(batch, crops=None, features=features)).total, losses.total)


def test_files_go_out_and_come_back(make_training, tmp_path, make_settings):
    first = make_training(1, loose=True)
    first.save(tmp_path / "faceid.safetensors", metadata={"step": "7"})
    again = load_adapter(tmp_path / "faceid.safetensors")
    state = first.adapter.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    second = with_router(again, 4)
    for number in range(32):
        for a, b in zip(
            second.lora_single[str(number)].parameters(), second.lora_multi[str(number)].parameters(), strict=True
        ):
            assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    assert torch.equal(second.resampler.latents, first.adapter.resampler.latents)
    stage2 = UniPortraitTraining(first.base, second, make_settings(stage=2), 0, first.tokens.encoders)
    stage2.save(tmp_path / "router.safetensors", torch.float16)
    both = load_uniportrait(tmp_path / "faceid.safetensors", tmp_path / "router.safetensors")
    assert both.routers["1"].aggr_router.weight.dtype == torch.float16
    torch.testing.assert_close(
        both.routers["31"].to_q_router[0].weight.float(),
        second.routers["31"].to_q_router[0].weight,
        atol=1e-3,
        rtol=1e-3,
    )
    with pytest.raises(ValueError, match="stage II needs an adapter with routers"):
        UniPortraitTraining(first.base, again, make_settings(stage=2), 0, first.tokens.encoders)


def test_a_new_adapter_begins_without_effect_on_the_base_weights(base, encoders, make_settings):
    state = torch.random.get_rng_state()
    one, same, other = (new_adapter(base.unet, encoders.sizes, seed, make_settings()) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = zip(one.state_dict().items(), same.state_dict().values(), strict=True)
    assert all(torch.equal(value, twin) for (_, value), twin in pairs)
    assert not torch.equal(one.resampler.latents, other.resampler.latents)
    attention = base.unet.get_submodule("up_blocks.1.attentions.2.transformer_blocks.0.attn2")
    assert torch.equal(one.projections["17"].to_k.weight, attention.to_k.weight)
    assert torch.equal(one.projections["17"].to_v.weight, attention.to_v.weight)
    downs = torch.cat([w.flatten() for n, w in one.lora_single.named_parameters() if ".down." in n])
    assert abs(downs.std() - 1 / 4) < 0.01 and abs(downs.mean()) < 0.01
    assert not any(w.any() for n, w in one.lora_single.named_parameters() if ".up." in n)


@pytest.mark.parametrize("stage", [1, 2])
def test_thirty_steps_on_one_batch_lower_the_loss(stage, make_training, make_batch):
    torch.manual_seed(0)
    training = make_training(stage, dropping=NOTHING_DROPPED)
    batch = make_batch([1, 1] if stage == 1 else [2, 2])
    draws = training.draw(batch)
    optimiser = torch.optim.AdamW(training.parameter_groups(3e-3, 1.0))
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        step = training(batch, draws)
        step.total.backward()
        optimiser.step()
        losses.append((step.diffusion.mean().item(), step.routing.mean().item()))
    assert losses[-1][0] < 0.9 * losses[0][0], losses
    assert stage == 1 or losses[-1][1] < 0.3 * losses[0][1], losses


@pytest.mark.parametrize(
    "values", [{"face": 0.6, "both": 0.6}, {"structure_path": 0.7, "structure_tokens": 0.7}, {"token_rate": [0.9, 0.1]}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValidationError):
        DroppingSettings(**values)


def test_unknown_settings_are_refused(make_settings):
    with pytest.raises(ValidationError, match="drop_out"):
        make_settings(dropping={"drop_out": 0.1})


def test_features_in_half_precision_are_taken(make_training, make_batch):
    training = make_training(1)
    batch = make_batch([1])
    features = training.tokens._batch_features(batch)
    half = FaceFeatures(features.intrinsic.half(), features.structure.half())
    found = training(replace(batch, crops=None, features=half))
    torch.testing.assert_close(found.total, training(batch).total, atol=1e-3, rtol=1e-3)
