"""The networks of the recipes against closed formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from likeness.demo.tiny_sizes import TinySizes
from likeness.recipes.base import BaseModel
from likeness.recipes.encoders import contrast
from likeness.recipes.slim_taesd import SlimTAESD, autoencoder_tiny, start_from_colours
from likeness.recipes.text import UNKNOWN, Words, sometimes_unknown, with_whole_vocabulary
from likeness.recipes.vae import encode_all
from likeness.trainer.model.text import clip_tokenizer

CAPTIONS = ("one person, in a red shirt", "two people on a blue background")


def test_the_first_autoencoder_gives_back_a_blurred_picture():
    torch.manual_seed(0)
    vae = SlimTAESD(8)
    start_from_colours(vae)
    coarse = torch.rand(2, 3, 4, 4) * 1.6 - 0.8
    picture = F.interpolate(coarse, scale_factor=16, mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        drawn = vae.decode(vae.encode(picture))
    assert (drawn - picture).abs().mean() < 0.15  # random weights are 0.4 off
    inner = [image[..., 8:-8, 8:-8].flatten() for image in (drawn, picture)]
    assert torch.corrcoef(torch.stack(inner))[0, 1] > 0.9


def test_the_slim_autoencoder_is_taesd_with_zeros():
    torch.manual_seed(0)
    slim = SlimTAESD(8)
    full = autoencoder_tiny(slim, TinySizes())
    picture = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = slim.encode(picture)
        assert torch.allclose(full.encode(picture).latents, latents, atol=1e-5)
        assert torch.allclose(full.decode(latents).sample, slim.decode(latents), atol=1e-5)


def test_latents_of_many_pictures_are_those_of_each():
    vae = SlimTAESD(8)
    pictures = torch.randint(0, 256, (5, 32, 64, 3), dtype=torch.uint8)
    cpu = torch.device("cpu")
    together, alone = encode_all(vae, pictures, cpu), encode_all(vae, pictures[3:4], cpu)
    assert together.shape == (5, 8, 4, 8)
    assert torch.allclose(together[3:4].float(), alone.float(), atol=1e-2)


def test_few_words_and_the_whole_vocabulary_say_the_same():
    torch.manual_seed(0)
    sizes, words = TinySizes(), Words(CAPTIONS)
    model = BaseModel(sizes, len(words))
    whole = with_whole_vocabulary(model.text, words, sizes)
    texts = ["two people in a red shirt", "one blue elephant"]
    with torch.no_grad():
        expected = model.text(words.encode(texts)).last_hidden_state
        assert torch.equal(whole(clip_tokenizer(77)(texts)).last_hidden_state, expected)
    assert (words.encode(["elephant"]) == UNKNOWN).sum() == 1


def test_unknown_words_take_no_frame_away():
    rows = Words(CAPTIONS).encode([CAPTIONS[0]])
    changed = sometimes_unknown(rows, 1.0, torch.Generator().manual_seed(0))
    length = 8  # start, seven tokens
    assert changed[0, 0] == rows[0, 0]
    assert (changed[0, 1:length] == UNKNOWN).all()
    assert torch.equal(changed[0, length:], rows[0, length:])


def test_contrast_of_what_it_knows_and_of_what_it_does_not():
    one = F.one_hot(torch.arange(4)).float()
    assert float(contrast(one, one)) == pytest.approx(math.log(1 + 3 * math.exp(-10)), abs=1e-6)
    same = torch.ones(4, 2) / math.sqrt(2)
    assert float(contrast(same, same)) == pytest.approx(math.log(4))
