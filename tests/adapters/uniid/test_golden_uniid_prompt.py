"""UniID's prompt, from names, words and a face to the contexts that the U-Net sees, as published."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.prompt_tokens import column_means, match_norms, token_norms
from likeness.adapters.uniid_tokens import uniid_tokens


@torch.no_grad()
def test_norms_of_names(system, assembly, name_norms, assert_near):
    tensors, config = assembly.tensors, assembly.metadata["config"]
    rows = [[number for number in row if number >= 0] for row in tensors["names.token_ids"].tolist()]
    assert [system.tokenizers[0](name)["input_ids"] for name in config["names"]] == rows
    names = [row[1:-1] for row in rows]
    encoded = []
    for k, encoder in enumerate(system.encoders, 1):
        means = column_means(names, encoder.get_input_embeddings().weight, config["num_text_tokens"])
        assert_near(means, tensors[f"names.column_mean_{k}"], f"means {k}")
        encoded.append(system.encoded_vectors(means, encoder))
        assert_near(encoded[-1], tensors[f"names.encoder_tokens_{k}"], f"encoded {k}")
    assert_near(token_norms(torch.cat(encoded, dim=-1), system.split), name_norms, "norms")


@torch.no_grad()
def test_tokens_of_the_face(system, assembly, name_norms, assert_near):
    tensors = assembly.tensors
    person = uniid_tokens(system.adapter, system.face, system.maps)
    raw = torch.cat([tensors["text.raw_tokens_1"], tensors["text.raw_tokens_2"]], dim=-1)
    assert_near(person["text"], raw[0], "text")
    assert_near(person["text"], assembly.expected()["text_tokens_unnormalised"][0], "without a list of names")
    assert_near(person["cond"], tensors["id.tokens"][0], "cond")
    assert_near(person["uncond"], tensors["id.zero_tokens"][0], "uncond")
    matched = match_norms(person["text"], name_norms, system.split)
    assert_near(matched, tensors["text.normalised_tokens"][0], "with the names' norms")


@torch.no_grad()
def test_prompts(system, assembly, assert_near):
    tensors, config = assembly.tensors, assembly.metadata["config"]
    token_ids = system.token_ids(config["prompt"].replace("<class word>", config["class_word"]))
    for k, ids in enumerate(token_ids, 1):
        assert ids == tensors[f"prompt.token_ids_{k}"][0].tolist()
    for name, ids in (("", token_ids), ("negative_", system.token_ids(config["negative_prompt"]))):
        embeds, pooled = system.encode([[row] for row in ids])
        assert_near(embeds, tensors[f"prompt.{name}embeds"], f"{name}embeds")
        assert_near(pooled, tensors[f"prompt.{name}pooled"], f"{name}pooled")


@torch.no_grad()
@pytest.mark.parametrize("when", ["before", "after"])
def test_contexts(assembly, contexts, when, assert_near):
    text_scale = assembly.metadata["config"][f"text_scale_{when}"]
    positive, negative, cond, uncond = contexts(text_scale)
    assert_near(torch.cat([positive, cond], dim=1), assembly.expected()[f"cond_{when}_merge"], "positive")
    assert_near(torch.cat([negative, uncond], dim=1), assembly.expected()["uncond"], "negative")
