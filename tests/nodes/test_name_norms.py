"""Name Norms on a tiny SDXL's text encoders, and the names that come with the pack."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def clip(sdxl):
    return sdxl[1]


def test_empty_names_are_those_of_the_pack(call, shown, clip):
    from likeness.nodes.name_norms import historical_names

    (norms,) = call("NameNorms", clip=clip, names=" \n", tokens=3)
    assert norms.values.shape == (3, 2) and (norms.values > 0).all()
    (listed,) = call("NameNorms", clip=clip, names="\n".join(historical_names()), tokens=3)
    assert torch.equal(norms.values, listed.values)
    lines = shown("NameNorms", clip=clip, names="", tokens=3).splitlines()
    assert lines[0] == f"{len(historical_names())} names of people of history"
    assert [line.split(": ")[0] for line in lines[1:]] == ["CLIP-L", "CLIP-G"]
    assert lines[1] == "CLIP-L: " + ", ".join(f"{value:.2f}" for value in norms.values[:, 0].tolist())


def test_own_names_count_line_by_line(call, shown, clip):
    (norms,) = call("NameNorms", clip=clip, names="Ada Lovelace\n\n  Johann Sebastian Bach  \n", tokens=3)
    (same,) = call("NameNorms", clip=clip, names="Ada Lovelace\nJohann Sebastian Bach", tokens=3)
    (other,) = call("NameNorms", clip=clip, names="Johann Sebastian Bach", tokens=3)
    assert torch.equal(norms.values, same.values) and not torch.equal(norms.values, other.values)
    assert shown("NameNorms", clip=clip, names="Johann Sebastian Bach\nAda Lovelace", tokens=3).startswith("2 names\n")


def test_more_words_need_longer_names(call, clip):
    (norms,) = call("NameNorms", clip=clip, names="Johann Sebastian Bach", tokens=2)
    assert norms.values.shape == (2, 2)
    with pytest.raises(ValueError, match="no name of 3 or more tokens"):
        call("NameNorms", clip=clip, names="Plato\nJohn Locke", tokens=3)


def test_only_sdxls_text_encoders_will_do(call, tiny_models, models_pack):
    import comfy.sd

    path = str(tiny_models.paths[tiny_models.checkpoint])
    clip = comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=True)[1]
    with pytest.raises(ValueError, match="Name Norms: this CLIP is .* Connect the CLIP of the SDXL checkpoint"):
        call("NameNorms", clip=clip, names="", tokens=3)


def test_the_packs_names_are_a_clean_list(node_classes):
    """As long as the published list, and mixed like it: two words mostly, some with one, some with three."""
    from likeness.nodes.name_norms import historical_names

    names = historical_names()
    assert names == sorted(set(names)) and 400 <= len(names) <= 700
    assert all(name.isascii() and name == name.strip() and name.replace(" ", "").isalpha() for name in names)
    words = [len(name.split()) for name in names]
    assert words.count(2) > 0.9 * len(names) and min(words.count(1), words.count(3)) > 10
