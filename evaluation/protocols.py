"""The pictures that a protocol asks for, as a manifest to be filled (spec, section 12).

The paper's 40 prompts for one person belong to FastComposer and come from the user's file; its 21 prompts for two
people were never published, so those here are our own, and the names of their pictures say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

_DATA = Path(__file__).resolve().parent / "data"

CELEBA = tuple(
    f"{number:06}" for number in (1, 181, 268, 612, 667, 1603, 1854, 2088, 2464, 2782, 2880, 2929, 2937, 3785, 4153)
)  # image numbers in CelebA
KINDS = ("accessory", "style", "action", "context")
PER_KIND = 10
IMAGES_PER_PROMPT = 4  # for two people the paper does not say

SINGLE, SEVERAL, QUICK = "uniportrait-single", "uniportrait-multi", "quick"
PROTOCOLS = (SINGLE, SEVERAL, QUICK)
_QUICK_PEOPLE = 4


@dataclass(frozen=True)
class Plan:
    """What a protocol is filled with.

    row: name of the method. prompts: with {person} for one person or {people} for two, None for the protocol's own.
    people: person -> reference file, None for the protocol's own. classes: person -> "man" or "woman" for the prompts.
    """

    protocol: str
    row: str
    prompts: Sequence[str] | None = None
    people: Mapping[str, str] | None = None
    classes: Mapping[str, str] = field(default_factory=dict)


def plan_manifest(plan: Plan) -> str:
    """The pictures of a plan as JSON Lines, a manifest whose pictures are still to be made.

    Seeds count the pictures of one prompt from 0. Without prompts for one person there are 40 numbered slots with empty
    prompts. `conditioned_by` is empty and has to be filled.
    Raises ValueError for an unknown protocol, the quick one without people, and prompts without a place for them.
    """
    if plan.protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {plan.protocol!r}; there are {', '.join(PROTOCOLS)}")
    if plan.protocol == QUICK and not plan.people:
        raise ValueError("the protocol quick needs a folder with a reference photo for each person (--references)")
    people = dict(plan.people or {number: f"celeba/{number}.jpg" for number in CELEBA})
    if plan.protocol == QUICK:
        people = dict(list(people.items())[:_QUICK_PEOPLE])
    lines = [{"format": 1, "conditioned_by": []}, *_pictures(plan, people)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _pictures(plan: Plan, people: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    several = plan.protocol == SEVERAL
    images = 1 if plan.protocol == QUICK else IMAGES_PER_PROMPT
    for group in combinations(people, 2 if several else 1):
        for slot, prompt in _slots(plan):
            for seed in range(images):
                yield {
                    "file": f"{plan.row}/{'+'.join(group)}/{slot}-{seed}.png",
                    "row": plan.row,
                    "prompt": _worded(prompt, group, plan.classes),
                    "seed": seed,
                    "references": [{"person": person, "files": [people[person]]} for person in group],
                }


def _slots(plan: Plan) -> list[tuple[str, str]]:
    """Name and prompt of each slot."""
    prompts, place = plan.prompts, "{people}" if plan.protocol == SEVERAL else "{person}"
    if prompts is None and plan.protocol == SINGLE:
        return [(f"{kind}-{number:02}", "") for kind in KINDS for number in range(1, PER_KIND + 1)]
    if prompts is None:
        name = "several_people_prompts.txt" if plan.protocol == SEVERAL else "one_person_prompts.txt"
        return [(f"own-{number:02}", prompt) for number, prompt in enumerate(read_prompts(_DATA / name), 1)]
    for prompt in prompts:
        if place not in prompt:
            raise ValueError(f"the prompt {prompt!r} does not say where the people belong; write {place} there")
    if plan.protocol == SINGLE and len(prompts) == len(KINDS) * PER_KIND:
        names = [f"{kind}-{number:02}" for kind in KINDS for number in range(1, PER_KIND + 1)]
        return list(zip(names, prompts, strict=True))
    return [(f"prompt-{number:02}", prompt) for number, prompt in enumerate(prompts, 1)]


def read_prompts(path: str | Path) -> list[str]:
    """The lines of a text file that are neither empty nor begin with #. Raises ValueError where there are none."""
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the prompts {path} could not be read: {error}") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"the file {path} holds no prompts; write one on each line")
    return prompts


def _worded(prompt: str, group: Sequence[str], classes: Mapping[str, str]) -> str:
    words = [classes.get(person, "person") for person in group]
    if len(group) == 1:
        return prompt.replace("{person}", words[0])
    plural = {"man": "two men", "woman": "two women"}.get(words[0], "two people")
    if words[0] != words[1]:
        plural = "two people" if "person" in words else f"a {words[0]} and a {words[1]}"
    return prompt.replace("{people}", plural)
