"""Pictures while training: the sampler, its seeds, several people, references and interpolation."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from likeness.adapters.identity import mix_identities
from likeness.trainer.batch import FaceFeatures
from likeness.trainer.model.base_model import load_base_model
from likeness.trainer.model.draws import Purpose, cross_layer_sizes, normal_noise
from likeness.trainer.model.host import DiffusersHost
from likeness.trainer.model.sampling import Picture, SamplingSettings, sample

SIZE = (64, 32)


@pytest.fixture
def training(make_training):
    return make_training(2, loose=True)


@pytest.fixture
def people(training):
    crops = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return training.tokens.identities([crop[None] for crop in crops], 0.5)


def pictures_of(training, pictures, **settings):
    return sample(training.base, training.host, pictures, SIZE, SamplingSettings(**{"steps": 4, **settings}))


def test_a_picture_does_not_depend_on_the_batch(training, people):
    wanted = [
        Picture("a", (), 1),
        Picture("b", (people[0],), 2),
        Picture("c", tuple(people), 3),
        Picture("d", tuple(people[:2]), 4),
        Picture("e", (people[1],), 5, negative="ugly"),
    ]
    together = pictures_of(training, wanted, routing_maps=True)
    assert [image.shape for image in together.images] == [(64, 32, 3)] * 5
    assert {image.dtype for image in together.images} == {np.dtype("uint8")}
    for number, picture in enumerate(wanted):
        alone = pictures_of(training, [picture])
        difference = np.abs(alone.images[0].astype(int) - together.images[number])
        assert difference.max() <= 1, number
    again = pictures_of(training, [replace(wanted[1], seed=6)])
    assert np.abs(again.images[0].astype(int) - together.images[1]).max() > 3


def test_routing_maps_say_whose_each_position_was(training, people):
    found = pictures_of(
        training, [Picture("a", tuple(people[:2]), 1), Picture("b", tuple(people), 2)], routing_maps=True
    )
    sizes = cross_layer_sizes(16, 8)
    for maps, count in zip(found.routing, (2, 3), strict=True):
        assert {number: tuple(m.shape) for number, m in maps.items()} == {n: (count, *s) for n, s in sizes.items()}
        for share in maps.values():
            torch.testing.assert_close(share.sum(0), torch.ones_like(share[0]))
            assert ((share * 4) % 1 == 0).all()
    assert all(0 < maps[1][0].mean() < 1 for maps in found.routing)
    assert pictures_of(training, [Picture("a", tuple(people[:2]))]).routing == ({},)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_it_is_the_ddim_of_diffusers(kind, training, people, write_base_model, tmp_path):
    base = load_base_model(write_base_model(tmp_path / kind, prediction_type=kind), "cpu", torch.float32)
    host = DiffusersHost(base.unet, training.adapter)
    picture = Picture("a photo", (people[0],), seed=9)
    settings = SamplingSettings(steps=5, guidance=3.0)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=kind,
    )
    scheduler.set_timesteps(5)
    latents = normal_noise(9, 0, Purpose.SAMPLING, (4, 16, 8))[None]
    halves = [
        (base.text([text]), host.prepare(people[0].tokens[key][None, None], "lora_single"))
        for text, key in (("", "uncond"), ("a photo", "cond"))
    ]
    with torch.no_grad():
        for step in scheduler.timesteps:
            negative, positive = (host(latents, step[None], text, call) for text, call in halves)
            latents = scheduler.step(negative + 3.0 * (positive - negative), step, latents).prev_sample
        expected = ((base.vae.decode(latents)[0] + 1) * 127.5).movedim(0, -1).numpy()
    found = sample(base, host, [picture], SIZE, settings).images[0]
    assert np.abs(found - expected).max() < 0.6


def test_references_are_joined_and_people_mixed_as_in_the_nodes(training):
    crops = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maker = training.tokens
    both, swapped, first, third = maker.identities([crops[:2], crops[[1, 0]], crops[:1], crops[2:]], 0.3)
    torch.testing.assert_close(both.tokens["cond"], swapped.tokens["cond"])
    assert all(torch.equal(one.tokens["uncond"], both.tokens["uncond"]) for one in (swapped, first, third))
    features = maker.encoders.features(crops[:2])
    joined = [part.flatten(0, 1)[None] for part in (features.intrinsic, features.structure)]
    torch.testing.assert_close(both.tokens["cond"], training.adapter.resampler(*joined, 0.3)[0].detach())
    cached = maker.identities([FaceFeatures(features.intrinsic, features.structure)], 0.3, ["Ann"])[0]
    assert torch.equal(cached.tokens["cond"], both.tokens["cond"]) and cached.label == "Ann"
    half = mix_identities(first, [(third, 0.5)])
    torch.testing.assert_close(half.tokens["cond"], (first.tokens["cond"] + third.tokens["cond"]) / 2)


def test_scales_switch_parts_off(training, people):
    plain = pictures_of(training, [Picture("a", (), 1)]).images[0]
    off = pictures_of(training, [Picture("a", (people[0],), 1)], id_scale=0.0, lora_scale=0.0).images[0]
    lora = pictures_of(training, [Picture("a", (people[0],), 1)], id_scale=0.0).images[0]
    assert np.array_equal(plain, off) and not np.array_equal(plain, lora)
    two = Picture("a", tuple(people[:2]), 1)
    assert not np.array_equal(
        pictures_of(training, [two]).images[0], pictures_of(training, [two], joined=True).images[0]
    )


def test_what_cannot_be_sampled_says_why(training, people, make_training):
    with pytest.raises(ValueError, match="loaded without its VAE"):
        sample(replace(training.base, vae=None), training.host, [Picture("a")], SIZE, SamplingSettings())
    single = make_training(1)
    with pytest.raises(ValueError, match="needs an adapter with routers"):
        pictures_of(single, [Picture("a", tuple(people[:2]))])
    with pytest.raises(ValueError, match="multiples of 4"):
        sample(training.base, training.host, [Picture("a")], (66, 32), SamplingSettings())
