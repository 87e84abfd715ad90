"""Identities: equality, mixing, and the file without the photo."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from likeness.adapters.checkpoint import CheckpointError
from likeness.adapters.identity import Identity, load_identity, mix_identities, save_identity
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def person(seed: int = 0, **changes) -> Identity:
    generator = torch.Generator().manual_seed(seed)
    fields = {
        "system": "uniportrait",
        "adapter": "f" * 64,
        "tokens": {"cond": torch.randn(16, 8, generator=generator), "uncond": torch.ones(16, 8)},
        "label": f"person {seed}",
        "preprocessing": "1",
    }
    return Identity(**{**fields, **changes})


def test_equality_is_by_value():
    assert person() == person()
    assert hash(person()) == hash(person())
    assert person() != person(1)
    assert person() != "person 0"
    for name in ("system", "adapter", "label", "preprocessing"):
        assert person() != person(**{name: "other"})
    assert person() != person(tokens={**person().tokens, "uncond": torch.zeros(16, 8)})
    assert person() != person(tokens={**person().tokens, "uncond": torch.ones(4, 8)})
    assert copy.deepcopy(person()) == person()


def test_tokens_are_copies_in_float32():
    cond = torch.ones(4, 8, dtype=torch.float16)
    identity = person(tokens={"cond": cond, "uncond": torch.zeros(4, 8, requires_grad=True)})
    cond.zero_()
    assert torch.equal(identity.tokens["cond"], torch.ones(4, 8))
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in identity.tokens.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.label = "other"


@pytest.mark.parametrize(
    "tokens",
    [
        {"cond": torch.ones(4, 8)},
        {"cond": torch.ones(1, 4, 8), "uncond": torch.ones(4, 8)},
        {"cond": torch.ones(4, 8), "uncond": torch.ones(4, 8), "more": torch.ones(4, 8)},
    ],
)
def test_other_tokens_are_refused(tokens):
    with pytest.raises(ValueError, match='needs the tokens "cond" and "uncond"'):
        person(tokens=tokens)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_not_numbers_are_refused(value):
    with pytest.raises(ValueError, match='"Ann" has cond tokens that are not numbers.*float32'):
        person(label="Ann", tokens={"cond": torch.full((4, 8), value), "uncond": torch.ones(4, 8)})


def test_mixing_is_the_published_sum():
    main, second, third = person(0), person(1), person(2)
    mixed = mix_identities(main, [(second, 0.25), (third, 0.1)])
    expected = 0.65 * main.tokens["cond"] + 0.25 * second.tokens["cond"] + 0.1 * third.tokens["cond"]
    torch.testing.assert_close(mixed.tokens["cond"], expected)
    assert torch.equal(mixed.tokens["uncond"], main.tokens["uncond"])
    assert (mixed.label, mixed.adapter, mixed.preprocessing) == (main.label, main.adapter, main.preprocessing)
    assert mix_identities(main, [(second, 0.2)], "both").label == "both"


def test_mixing_ends():
    main, other = person(0), person(1)
    assert mix_identities(main, []) == main
    assert torch.equal(mix_identities(main, [(other, 0.0)]).tokens["cond"], main.tokens["cond"])
    assert torch.equal(mix_identities(main, [(other, 1.0)]).tokens["cond"], other.tokens["cond"])
    torch.testing.assert_close(
        mix_identities(main, [(other, 1.5)]).tokens["cond"], 1.5 * other.tokens["cond"] - 0.5 * main.tokens["cond"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "pulid"}, '"person 0" and "person 1": one was encoded by uniportrait, the other by pulid'),
        ({"adapter": "0" * 64}, '"person 0" and "person 1": they were encoded with different uniportrait weights'),
        (
            {"tokens": {"cond": torch.ones(4, 8), "uncond": torch.ones(4, 8)}},
            r'"person 0" and "person 1": they have different numbers of tokens, \(16, 8\) and \(4, 8\)',
        ),
    ],
)
def test_unrelated_identities_do_not_mix(changes, message):
    with pytest.raises(ValueError, match=f"cannot mix {message}"):
        mix_identities(person(0), [(person(1, **changes), 0.5)])


def test_round_trip(tmp_path):
    identity = person(label="Ann-Sophie Müller 🙂")
    save_identity(identity, tmp_path / "folder" / "ann.safetensors")
    assert load_identity(tmp_path / "folder" / "ann.safetensors") == identity


def test_file_has_tokens_and_metadata_and_no_more(tmp_path):
    save_identity(person(), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {
            "likeness.identity": "1",
            "likeness.system": "uniportrait",
            "likeness.adapter": "f" * 64,
            "likeness.label": "person 0",
            "likeness.preprocessing": "1",
        }
        assert set(file.keys()) == {"identity.cond", "identity.uncond"}


def resaved(path, tensors=None, metadata=None):
    with safe_open(path, "pt") as file:
        stored = file.metadata()
    save_file({**load_file(path), **(tensors or {})}, path, metadata=stored if metadata is None else metadata(stored))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {"identity.cond": torch.full((16, 8), float("nan"))}}, "x.safetensors: .*not numbers"),
        ({"tensors": {"identity.more": torch.ones(1, 1)}}, 'x.safetensors: an identity needs the tokens "cond"'),
        ({"metadata": lambda stored: {**stored, "likeness.identity": "2"}}, "identity of format 2.*reads format 1"),
        ({"metadata": lambda _: {"likeness.identity": "1"}}, "metadata lack system, adapter, label, preprocessing"),
        ({"metadata": lambda _: {}}, "identity of format None"),
    ],
)
def test_damaged_identity(tmp_path, change, message):
    save_identity(person(), tmp_path / "x.safetensors")
    resaved(tmp_path / "x.safetensors", **change)
    with pytest.raises(CheckpointError, match=message):
        load_identity(tmp_path / "x.safetensors")


def test_other_files_are_named(tmp_path, tiny_files):
    with pytest.raises(
        CheckpointError, match="faceid.safetensors is a UniPortrait faceid file, put it in faceid; expected"
    ):
        load_identity(tiny_files.faceid)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_identity(tmp_path / "nobody.safetensors")
