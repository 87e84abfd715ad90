"""The paper's protocol as lists of pictures."""

from __future__ import annotations

import json

import pytest
from likeness.evaluation.protocols import CELEBA, Plan, plan_manifest, read_prompts


def pictures_of(text):
    head, *pictures = [json.loads(line) for line in text.splitlines()]
    assert head == {"format": 1, "conditioned_by": []}
    return pictures


def test_one_person_fifteen_people_forty_prompts_four_pictures():
    pictures = pictures_of(plan_manifest(Plan("uniportrait-single", "mine")))
    assert len(pictures) == 2400 and len({picture["file"] for picture in pictures}) == 2400
    assert len(CELEBA) == 15 and CELEBA[0] == "000001" and CELEBA[-1] == "004153"
    assert pictures[0] == {
        "file": "mine/000001/accessory-01-0.png",
        "row": "mine",
        "prompt": "",
        "seed": 0,
        "references": [{"person": "000001", "files": ["celeba/000001.jpg"]}],
    }
    assert pictures[-1]["file"] == "mine/004153/context-10-3.png" and pictures[-1]["seed"] == 3


def test_ones_own_prompts_fill_the_slots():
    prompts = [f"a {{person}} number {number}" for number in range(40)]
    plan = Plan("uniportrait-single", "mine", prompts, classes={"000001": "woman"})
    pictures = pictures_of(plan_manifest(plan))
    assert pictures[0]["prompt"] == "a woman number 0" and pictures[-1]["prompt"] == "a person number 39"
    assert pictures[40]["file"] == "mine/000001/style-01-0.png"
    with pytest.raises(
        ValueError, match="the prompt 'a dog' does not say where the people belong; write {person} there"
    ):
        plan_manifest(Plan("uniportrait-single", "mine", ["a dog"]))


def test_two_people_in_all_pairs_with_21_prompts_of_our_own():
    classes = {"000001": "woman", "000181": "man", "000268": "man", "000612": "woman"}
    pictures = pictures_of(plan_manifest(Plan("uniportrait-multi", "mine", classes=classes)))
    assert len(pictures) == 105 * 21 * 4
    assert len({tuple(person["person"] for person in picture["references"]) for picture in pictures}) == 105
    assert pictures[0]["file"] == "mine/000001+000181/own-01-0.png"
    worded = {
        picture["file"].split("/")[1]: picture["prompt"]
        for picture in pictures
        if picture["file"].endswith("own-03-0.png")
    }
    assert worded["000001+000181"] == "a woman and a man sitting side by side on a park bench"
    assert worded["000181+000268"].startswith("two men") and worded["000001+000612"].startswith("two women")
    assert worded["000001+000667"].startswith("two people") and worded["000667+001603"].startswith("two people")


def test_the_quick_protocol_takes_the_first_people_of_a_folder():
    people = {f"p{number}": f"photos/p{number}.png" for number in range(9)}
    pictures = pictures_of(plan_manifest(Plan("quick", "mine", people=people)))
    assert len(pictures) == 16 and {picture["references"][0]["person"] for picture in pictures} == {
        "p0",
        "p1",
        "p2",
        "p3",
    }
    with pytest.raises(ValueError, match="the protocol quick needs a folder"):
        plan_manifest(Plan("quick", "mine"))
    with pytest.raises(ValueError, match="unknown protocol 'other'"):
        plan_manifest(Plan("other", "mine"))


def test_prompts_are_the_lines_of_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("# accessories\na {person} in a hat\n\n  a {person} in a scarf \n", "utf-8")
    assert read_prompts(tmp_path / "prompts.txt") == ["a {person} in a hat", "a {person} in a scarf"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="missing.txt could not be read"):
        read_prompts(tmp_path / "missing.txt")
