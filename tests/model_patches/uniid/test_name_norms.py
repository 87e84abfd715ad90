"""Name norms from ComfyUI's CLIP objects; the published numbers stand in test_golden.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

NAMES = ("Marlo Vent", "Oona", "Tam Ardel Wick")


@pytest.fixture
def encodings(published: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each encoding of the published CLIP."""
    calls: list[int] = []
    original = published.clip.encode_from_tokens
    monkeypatch.setattr(published.clip, "encode_from_tokens", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    return calls


def norms(clip: Any, names: Any = NAMES, words: int = 3) -> Any:
    from likeness.model_patches.name_norms import names_norms

    return names_norms(clip, names, words)


def test_they_say_what_they_are(published: Any) -> None:
    found = norms(published.clip)
    assert found.values.shape == (3, 2) and found.values.dtype == torch.float32 and (found.values > 0).all()
    assert found.label == "3 names"


def test_they_are_computed_once_for_a_clip_and_its_names(published: Any, encodings: list[int]) -> None:
    first = norms(published.clip, (*NAMES, "Ivor Stellan"))
    assert norms(published.clip, [*NAMES, "Ivor Stellan"]) is first and encodings == [1]
    assert norms(published.clip, (*NAMES, "Ann Stellan")) is not first
    assert norms(published.clip, (*NAMES, "Ivor Stellan"), words=2).values.shape == (2, 2)
    assert len(encodings) == 3


def test_a_lora_on_the_encoders_is_another_clip(published: Any) -> None:
    patched = published.clip.clone()
    key = "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    weight = patched.cond_stage_model.state_dict()[key]
    patched.add_patches({key: ("diff", (torch.full_like(weight, 0.5),))})
    plain, found = norms(published.clip).values, norms(patched).values
    torch.testing.assert_close(found[:, 0], plain[:, 0])
    assert (found[:, 1] - plain[:, 1]).abs().min() > 1e-3
    torch.testing.assert_close(norms(published.clip).values, plain)


def test_names_are_taken_as_they_are(published: Any) -> None:
    """Not as prompts, in which brackets and colons weigh words."""
    plain, bracketed = norms(published.clip, ["Marlo Vent"]), norms(published.clip, ["(Marlo Vent:1.5)"])
    assert not torch.allclose(plain.values, bracketed.values)


def test_names_that_are_too_short(published: Any) -> None:
    with pytest.raises(
        ValueError, match="no name of 3 or more tokens, but this UniID has 9 text tokens.*Add longer names"
    ):
        norms(published.clip, ["Ann"], words=9)


def test_no_names(published: Any) -> None:
    with pytest.raises(ValueError, match="Name Norms: the list holds no names"):
        norms(published.clip, [])


def test_a_clip_of_another_base(published: Any) -> None:
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    small = {
        "clip_l_model_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        }
    }
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options=small)
    with pytest.raises(ValueError, match="this CLIP is SD1ClipModel.*Connect the CLIP of the SDXL checkpoint"):
        norms(clip)
