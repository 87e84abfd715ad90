from __future__ import annotations

import pytest
from likeness.synthetic import draw_scene, identities, people, split_of, train_people
from likeness.synthetic import test_people as unseen_people


def test_the_splits_share_nobody():
    train, test = train_people(1000), unseen_people(1000)
    assert not set(train) & set(test)
    assert {split_of(seed) for seed in train} == {"train"}
    assert {split_of(seed) for seed in test} == {"test"}
    with pytest.raises(ValueError, match="are not within"):
        people("train", 10, first=(1 << 30) - 5)


def test_a_picture_never_mixes_the_splits():
    with pytest.raises(ValueError, match="never both"):
        draw_scene([train_people(1)[0], unseen_people(1)[0]], 0)


def test_who_somebody_is_does_not_depend_on_the_company():
    seeds = train_people(5)
    together = identities(seeds)
    alone = identities(seeds[3:4])
    for name in ("skin", "jaw", "hair_length", "glasses"):
        assert getattr(together[3:4], name).equal(getattr(alone, name))


@pytest.mark.parametrize("seed", [-1, 1 << 31])
def test_other_numbers_are_nobody(seed):
    with pytest.raises(ValueError, match="no person's seed"):
        identities([seed])
    with pytest.raises(ValueError, match="unknown split"):
        people("validation", 1)
