"""Bootstrap over people: known variances, clusters, pairs, and equal seeds."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.evaluation.intervals import estimate_difference, estimate_mean, estimate_ratio, num_clusters


def width(estimate):
    return estimate.high - estimate.low


def test_the_interval_of_independent_people_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(3, 2, 200)
    found = estimate_mean(values.tolist(), [(f"{number}",) for number in range(200)])
    assert found.mean == pytest.approx(values.mean()) and (found.n, found.clusters) == (200, 200)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_more_pictures_of_the_same_people_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=30).tolist()
    groups = [(f"{number}",) for number in range(30)]
    once, often = estimate_mean(values, groups), estimate_mean(values * 8, groups * 8)
    assert often.mean == pytest.approx(once.mean)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert width(estimate_mean(values * 8, [(f"{number}",) for number in range(240)])) < 0.5 * width(once)


def test_pairs_of_a_whole_set_count_as_the_evidence_of_its_people():
    random = np.random.default_rng(2)
    people = [f"{number}" for number in range(12)]
    effect = dict(zip(people, random.normal(size=12), strict=True))
    pairs = [(one, other) for place, one in enumerate(people) for other in people[:place]]
    values = [effect[one] + effect[other] for one, other in pairs]
    found = estimate_mean(values, pairs)
    assert (found.n, found.clusters) == (66, 12)
    true_half = 1.96 * 2 * np.std(list(effect.values())) / np.sqrt(12)  # the mean is twice the mean effect
    assert width(found) / 2 == pytest.approx(true_half, rel=0.25)
    assert width(found) > 1.5 * width(estimate_mean(values, [("+".join(pair),) for pair in pairs]))


def test_pairs_in_which_nobody_comes_twice_are_drawn_as_pairs():
    values = np.random.default_rng(3).normal(size=20).tolist()
    pairs = [(f"a{number}", f"b{number}") for number in range(20)]
    assert num_clusters(pairs) == 20
    single = estimate_mean(values, [(f"{number:02}",) for number in range(20)])
    assert width(estimate_mean(values, pairs)) == pytest.approx(width(single), rel=0.15)


def test_one_person_has_no_interval():
    found = estimate_mean([0.2, 0.4], [("ann",), ("ann",)])
    assert found.mean == pytest.approx(0.3) and found.low is None and found.high is None and found.clusters == 1


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    values, groups = np.random.default_rng(4).normal(size=15).tolist(), [(f"{number}",) for number in range(15)]
    assert estimate_mean(values, groups, 5) == estimate_mean(values, groups, 5)
    assert estimate_mean(values, groups, 5).low != estimate_mean(values, groups, 6).low


def test_a_paired_difference_knows_that_the_people_are_the_same():
    random = np.random.default_rng(5)
    easy, groups = random.normal(0, 5, 40), [(f"{number}",) for number in range(40)]
    better = easy + 1 + random.normal(0, 0.1, 40)
    found = estimate_difference(better.tolist(), easy.tolist(), groups)
    assert 0.9 < found.low < found.mean < found.high < 1.1
    with pytest.raises(ValueError, match="equally many values, got 1 and 2"):
        estimate_difference([1.0], [1.0, 2.0], [("ann",)])


def test_a_ratio_of_two_rows_has_an_interval():
    random = np.random.default_rng(6)
    values, groups = random.uniform(0.2, 0.3, 30), [(f"{number}",) for number in range(30)]
    found = estimate_ratio((3 * values).tolist(), groups, values.tolist(), groups)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3, 3))  # the same people are drawn in both rows
    noisy = estimate_ratio((3 * values[::-1]).tolist(), groups, values.tolist(), groups)
    assert noisy.mean == pytest.approx(3) and noisy.low < 2.9 < 3.1 < noisy.high
    with pytest.raises(ValueError, match="whose mean is not 0"):
        estimate_ratio([1.0], [("ann",)], [0.0], [("ann",)])


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="at least one value"):
        estimate_mean([], [])
    with pytest.raises(ValueError, match="values in both rows"):
        estimate_ratio([1.0], [("ann",)], [], [])
