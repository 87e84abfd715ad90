"""Randomness is a function of seed, position and purpose."""

from __future__ import annotations

import pytest
import torch
from likeness.trainer.model.draws import DrawShapes, Purpose, cross_layer_sizes, draw, generator_of, split_layers

SHAPES = DrawShapes(latent=(4, 8, 4), timesteps=1000, structure_tokens=64)


def rows_of(draws):
    """What each sample got, as lists of tensors without padding."""
    names = ("timesteps", "noise", "latent_noise", "drop_face", "structure_scale", "structure_keep", "routing")
    return [
        [*(getattr(draws, name)[row] for name in names), draws.drop_text[row]] for row in range(len(draws.timesteps))
    ]


def equal(one, other):
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def test_a_samples_draws_do_not_depend_on_the_batch(make_batch, make_settings):
    settings = make_settings(stage=2, loss={"noise_offset": 0.1})
    together = rows_of(draw(make_batch([2, 2, 2, 2], [7, 8, 9, 10]), SHAPES, settings, seed=1))
    halves = [draw(make_batch([2, 2], positions), SHAPES, settings, seed=1) for positions in ([7, 8], [9, 10])]
    apart = [*rows_of(halves[0]), *rows_of(halves[1])]
    assert all(equal(one, other) for one, other in zip(together, apart, strict=True))
    assert not any(equal(one, other) for one, other in zip(together, together[1:] + together[:1], strict=True))
    other_seed = rows_of(draw(make_batch([2, 2, 2, 2], [7, 8, 9, 10]), SHAPES, settings, seed=2))
    assert not any(torch.equal(one[1], other[1]) for one, other in zip(together, other_seed, strict=True))


def test_padding_changes_nobodys_draws(make_batch, make_settings):
    settings = make_settings(stage=2, dropping={"structure_path": 0.0, "structure_tokens": 1.0})
    bare = draw(make_batch([2, 1], [3, 4]), SHAPES, settings, seed=1)
    padded = draw(make_batch([2, 1], [3, 4], padded=5), SHAPES, settings, seed=1)
    assert torch.equal(bare.routing, padded.routing[..., :2])
    assert torch.equal(bare.structure_keep, padded.structure_keep[:, :2])
    assert not bare.structure_keep[0, 0].equal(bare.structure_keep[0, 1])


def test_purposes_seeds_and_positions_have_streams_of_their_own():
    places = [(0, 0, Purpose.NOISE), (1, 0, Purpose.NOISE), (0, 1, Purpose.NOISE), (0, 0, Purpose.LATENT)]
    places += [(0, 1 << 32, Purpose.NOISE), (1 << 40, 0, Purpose.NOISE)]
    first = {tuple(generator_of(*place).random(4)) for place in places}
    assert len(first) == len(places)
    assert tuple(generator_of(*places[0]).random(4)) in first


@pytest.mark.parametrize("latent", [(8, 4), (9, 5), (64, 64)])
def test_routing_noise_is_cut_by_layer(latent, make_batch, make_settings):
    shapes = DrawShapes((4, *latent), 1000, 1)
    draws = draw(make_batch([2]), shapes, make_settings(stage=2), seed=1)
    layers = split_layers(draws.routing, *latent)
    assert {number: noise.shape[1] for number, noise in layers.items()} == {
        number: h * w for number, (h, w) in cross_layer_sizes(*latent).items()
    }
    assert list(layers) == list(range(1, 32, 2))
    assert torch.equal(torch.cat(list(layers.values()), 1), draws.routing)
    if latent == (64, 64):  # Gumbel: mean 0.5772, variance π²/6
        assert abs(draws.routing.mean() - 0.5772) < 0.02
        assert abs(draws.routing.var() - 1.6449) < 0.03
        assert sum(noise.shape[1] for noise in layers.values()) == 5 * (4096 + 1024 + 256) + 64


def test_how_often_what_is_dropped(make_batch, make_settings):
    settings = make_settings(stage=1)
    shapes = DrawShapes((1, 1, 1), 1000, 64)
    batch = make_batch([1] * 4, range(4))
    draws = [draw(batch_at(batch, start), shapes, settings, seed=0) for start in range(0, 8000, 4)]
    face = torch.cat([d.drop_face for d in draws])
    text = torch.tensor([flag for d in draws for flag in d.drop_text])
    assert abs((face & ~text).float().mean() - 0.05) < 0.008
    assert abs((text & ~face).float().mean() - 0.05) < 0.008
    assert abs((text & face).float().mean() - 0.05) < 0.008
    off = torch.cat([d.structure_scale for d in draws]) == 0
    kept = torch.cat([d.structure_keep[:, 0] for d in draws]).float().mean(1)
    assert abs(off.float().mean() - 0.33) < 0.02
    partly = kept < 1
    assert abs(partly.float().mean() - 0.33) < 0.02
    assert not (off & partly).any()
    assert abs(kept[partly].mean() - 0.5) < 0.02
    assert kept[partly].std() > 0.2  # rates from 0.1 to 0.9
    steps = torch.cat([d.timesteps for d in draws]).float()
    assert steps.min() >= 0 and steps.max() < 1000 and abs(steps.mean() - 499.5) < 12


def batch_at(batch, start):
    from dataclasses import replace

    return replace(batch, positions=torch.arange(start, start + len(batch)))


def test_a_fixed_rate_and_other_photos(make_batch, make_settings):
    from dataclasses import replace

    settings = make_settings(
        dropping={"structure_path": 0, "structure_tokens": 1, "token_rate": 0.25, "other_photo": 1.0}
    )
    batch = replace(make_batch([1, 1]), has_other=torch.tensor([True, False]))
    draws = draw(batch, DrawShapes((1, 1, 1), 10, 20000), settings, seed=0)
    assert (draws.structure_keep.float().mean(-1) - 0.75).abs().max() < 0.02
    assert draws.other_photo.tolist() == [True, False]
    assert draws.routing is None


@pytest.mark.parametrize(("stage", "counts"), [(1, [1, 2]), (2, [2, 0])])
def test_wrong_numbers_of_faces_name_the_sample(stage, counts, make_batch, make_settings):
    with pytest.raises(ValueError, match=rf"sample1 has {counts[1]} faces; stage {stage}"):
        draw(make_batch(counts), SHAPES, make_settings(stage=stage), seed=0)
