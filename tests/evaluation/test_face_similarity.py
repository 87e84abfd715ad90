"""Face Sim, blending, duplicates and the levels, on hand-made embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from likeness.evaluation.metrics.blending import blending_score
from likeness.evaluation.metrics.duplicates import duplicate_pairs, unmatched_references
from likeness.evaluation.metrics.face_similarity import face_similarity, greedy_match, similarities
from likeness.evaluation.metrics.separation import separation


def unit(*angles):
    """Unit vectors (k, 2) at angles in degrees."""
    return np.array([(math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in angles])


def test_one_person_is_compared_to_the_largest_face():
    assert face_similarity(np.array([[0.3, 0.9]])) == 0.3


@pytest.mark.parametrize("matrix", [np.zeros((1, 0)), np.zeros((2, 1)), np.array([[-0.4]]), np.full((2, 3), -0.1)])
def test_no_face_too_few_faces_and_negative_values_count_nothing(matrix):
    assert face_similarity(matrix) == 0


def test_several_people_count_by_the_lowest_match():
    assert face_similarity(np.array([[0.9, 0.2], [0.1, 0.6]])) == 0.6
    assert face_similarity(np.array([[0.9, 0.2, 0.1], [0.1, 0.6, 0.8]])) == 0.8


def test_matching_takes_the_highest_value_first_even_where_the_sum_would_be_higher_otherwise():
    matrix = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert greedy_match(matrix) == [(0, 0), (1, 1)]
    assert face_similarity(matrix) == 0.1


def test_matching_does_not_depend_on_the_order_of_people_and_faces():
    random = np.random.default_rng(0)
    for _ in range(20):
        matrix = random.uniform(-1, 1, (3, 4))
        rows, columns = random.permutation(3), random.permutation(4)
        assert face_similarity(matrix[rows][:, columns]) == face_similarity(matrix)
        pairs = {(rows[row], columns[column]) for row, column in greedy_match(matrix[rows][:, columns])}
        assert pairs == set(greedy_match(matrix))


def test_ties_go_to_the_lower_reference_and_face():
    assert greedy_match(np.zeros((2, 2))) == [(0, 0), (1, 1)]


def test_nobody_has_no_face_similarity():
    with pytest.raises(ValueError, match="at least one reference"):
        face_similarity(np.zeros((0, 1)))


def test_several_photos_count_by_the_mean_of_their_cosines():
    matrix = similarities([unit(0), unit(0, 90)], unit(60, 0))
    np.testing.assert_allclose(matrix, [[0.5, 1], [(0.5 + math.cos(math.radians(30))) / 2, 0.5]])
    assert similarities([unit(0)], np.zeros((0, 0))).shape == (1, 0)


def test_blending_is_the_mean_cosine_of_different_faces_with_negative_ones_as_nothing():
    assert blending_score(unit(0, 60)) == pytest.approx(0.5)
    assert blending_score(unit(0, 60, 180)) == pytest.approx(0.5 / 3)  # 0.5, -1, -0.5
    assert blending_score(unit(30, 30, 30)) == pytest.approx(1)
    assert blending_score(unit(0)) is None and blending_score(np.zeros((0, 2))) is None


def test_duplicates_are_pairs_from_the_threshold_on():
    faces = np.eye(4)[[0, 1, 0]]
    assert duplicate_pairs(faces, 1.0) == [(0, 2)]
    assert duplicate_pairs(faces, 1.01) == []
    assert duplicate_pairs(np.zeros((0, 0)), 0.5) == []


def test_people_who_are_not_drawn_are_found():
    assert unmatched_references(np.array([[0.9, 0.2], [0.7, 0.1]]), 0.5) == [1]  # both look at face 0
    assert unmatched_references(np.array([[0.9, 0.2], [0.7, 0.5]]), 0.5) == []
    assert unmatched_references(np.zeros((2, 0)), 0.5) == [0, 1]


def test_levels_of_strangers_and_of_one_person():
    found = separation(unit(0, 60, 180, 180), ["ann", "ann", "bob", "bob"])
    assert found.same == pytest.approx((0.5 + 1) / 2)
    assert found.strangers == pytest.approx((-1 - 1 - 0.5 - 0.5) / 4) and found.strangers_score == 0
    assert found.auc == 1


def test_the_area_under_the_curve_counts_ties_half():
    random = np.random.default_rng(1)
    vectors = random.integers(-1, 2, (12, 3)).astype(float)  # their products tie often
    people = list("aabbccddeeff")
    found = separation(vectors, people)
    cosines = vectors @ vectors.T
    pairs = [(i, j) for i in range(12) for j in range(i)]
    same = [cosines[pair] for pair in pairs if people[pair[0]] == people[pair[1]]]
    others = [cosines[pair] for pair in pairs if people[pair[0]] != people[pair[1]]]
    wins = np.mean([(one > other) + 0.5 * (one == other) for one in same for other in others])
    assert found.auc == pytest.approx(wins)
    nobody = separation(np.zeros((0, 1)), [])
    assert nobody.auc is None and nobody.same is None and nobody.strangers is None
