"""Routing accuracy on maps and masks that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.evaluation.metrics.routing_accuracy import NOBODY, box_masks, owners, routing_accuracy


def halves(height=8, width=8):
    """Masks (2, H, W) of the left and the right half."""
    left = np.zeros((height, width), bool)
    left[:, : width // 2] = True
    return np.stack([left, ~left])


def test_right_wrong_and_half_right_maps():
    right = np.repeat([[0, 0, 1, 1]], 4, axis=0).astype(np.uint8)
    assert routing_accuracy(right, halves()) == 1
    assert routing_accuracy(1 - right, halves()) == 0
    assert routing_accuracy(np.zeros((4, 4), np.uint8), halves()) == 0.5


def test_only_places_inside_faces_count():
    masks = halves()
    masks[:, 2:] = False
    routing = np.ones((8, 8), np.uint8)
    routing[:2, :4] = 0
    assert routing_accuracy(routing, masks) == 1
    routing[0, 0] = 1
    assert routing_accuracy(routing, masks) == 1 - 1 / 16


def test_a_place_that_went_to_nobody_is_wrong():
    routing = np.repeat([[0, NOBODY, 1, 1]], 4, axis=0).astype(np.uint8)
    assert routing_accuracy(routing, halves()) == 0.75


def test_weights_go_to_their_largest_and_to_nobody_where_all_are_zero():
    weights = np.zeros((2, 4, 4), np.float32)
    weights[0, :, :2], weights[1, :, 2:] = 0.9, 0.6
    assert routing_accuracy(weights, halves()) == 1
    weights[:, 0, 0] = 0
    assert routing_accuracy(weights, halves()) == 1 - 1 / 16


def test_masks_are_averaged_down_and_belong_from_a_half_on():
    masks = np.zeros((2, 4, 4))
    masks[0, :2, :2] = 1  # fills its cell of a 2 x 2 grid
    masks[1, 0, 2:] = 1  # fills half of its cell
    masks[1, 3, 3] = 1  # a quarter
    assert owners(masks, (2, 2)).tolist() == [[0, 1], [NOBODY, NOBODY]]
    assert owners(masks, (8, 8))[0].tolist() == [0] * 4 + [1] * 4


def test_layers_of_other_shapes_than_the_masks_are_judged():
    routing = np.repeat([[0, 0, 0, 1, 1, 1]], 3, axis=0).astype(np.int64)
    assert routing_accuracy(routing, halves(9, 18)) == 1


def test_empty_masks_say_nothing():
    assert routing_accuracy(np.zeros((4, 4), np.uint8), np.zeros((2, 8, 8))) is None


def test_maps_of_more_people_than_masks_are_refused():
    with pytest.raises(ValueError, match="maps are of 3 identities, but there are masks of 2"):
        routing_accuracy(np.full((4, 4), 2, np.uint8), halves())
    with pytest.raises(ValueError, match="maps are of 3 identities"):
        routing_accuracy(np.zeros((3, 4, 4), np.float32), halves())


@pytest.mark.parametrize(
    "routing", [np.zeros((4, 4), np.float32), np.zeros((2, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_other_maps_are_refused(routing):
    with pytest.raises(ValueError, match="a routing map must be"):
        routing_accuracy(routing, halves())


def test_boxes_become_masks():
    masks = box_masks([(-2.0, 1.0, 2.4, 3.0), None], 4, 6)
    assert masks.shape == (2, 4, 6) and not masks[1].any()
    assert masks[0].sum() == 4 and masks[0, 1:3, :2].all()
