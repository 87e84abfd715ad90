"""Who exists: people are numbers, and every number belongs to one split for good."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST = {"train": 0, "test": 1 << 30}
SPLITS = tuple(_FIRST)
_PEOPLE_PER_SPLIT = 1 << 30


def people(split: str, count: int, first: int = 0) -> tuple[int, ...]:
    """Seeds of `count` different people of a split ("train" or "test"), counted from its person number `first`.

    Raises ValueError for another split, or where the split's range of seeds ends.
    """
    if split not in _FIRST:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if count < 0 or first < 0 or first + count > _PEOPLE_PER_SPLIT:
        raise ValueError(f"people {first} to {first + count} are not within the {_PEOPLE_PER_SPLIT} of a split")
    start = _FIRST[split] + first
    return tuple(range(start, start + count))


def train_people(count: int, first: int = 0) -> tuple[int, ...]:
    """Seeds of people to train on; no test person is ever among them."""
    return people("train", count, first)


def test_people(count: int, first: int = 0) -> tuple[int, ...]:
    """Seeds of people to test on; no train person is ever among them."""
    return people("test", count, first)


def split_of(person_seed: int) -> str:
    """The split of a person. Raises ValueError for a number that is nobody's."""
    for split, first in _FIRST.items():
        if first <= person_seed < first + _PEOPLE_PER_SPLIT:
            return split
    raise ValueError(f"{person_seed} is no person's seed; take seeds from train_people or test_people")


def common_split(person_seeds: Sequence[int]) -> str:
    """The split that all these people belong to. Raises ValueError where train and test people are mixed."""
    splits = {split_of(seed) for seed in person_seeds}
    if len(splits) != 1:
        raise ValueError("a picture shows train people or test people (at least one), never both")
    return splits.pop()
