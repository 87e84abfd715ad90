"""Routing maps: votes, views and colours."""

from __future__ import annotations

import pytest
import torch

NOBODY = 255


@pytest.fixture(autouse=True)
def _comfyui(comfyui_path):
    """The rooms above need ComfyUI to be importable."""


def maps(*rows):
    return torch.tensor(rows, dtype=torch.uint8)[None]


def test_most_votes_win_and_each_map_counts_once():
    from likeness.nodes.routing_votes import majority

    coarse = maps([1])
    fine = maps([0, 0], [1, NOBODY])
    other = maps([0, 1], [0, NOBODY])
    assert torch.equal(majority([coarse, fine, other], (2, 2), 2), maps([0, 1], [1, NOBODY]))


def test_a_tie_goes_to_the_lower_number_and_never_to_nobody():
    from likeness.nodes.routing_votes import majority

    assert torch.equal(majority([maps([1, NOBODY]), maps([0, 1])], (1, 2), 2), maps([0, 1]))


def test_each_picture_of_a_batch_votes_for_itself():
    from likeness.nodes.routing_votes import majority

    first, second = torch.cat([maps([0]), maps([1])]), torch.cat([maps([0]), maps([2])])
    assert majority([first, second, second], (1, 1), 3).flatten().tolist() == [0, 2]


def record(labels=("Anna", "Ben")):
    from likeness.model_patches.routing_maps import RoutingRecord

    # Two calls, a fine layer 1 and a coarse layer 31.
    calls = [{1: maps([0, 0], [0, 0]), 31: maps([1])}, {1: maps([1, 0], [0, 0]), 31: maps([1])}]
    return RoutingRecord(tuple(labels), calls)


@pytest.mark.parametrize(
    ("view", "captions", "winners"),
    [
        ("average", [""], [[1, 0, 0, 0]]),
        ("per step", ["step 1 of 2", "step 2 of 2"], [[0, 0, 0, 0], [1, 0, 0, 0]]),
        ("per layer", ["layer 1", "layer 31"], [[0, 0, 0, 0], [1, 1, 1, 1]]),
    ],
)
def test_views_of_a_run(view, captions, winners):
    from likeness.nodes.routing_votes import routing_views

    views = routing_views(record(), view)
    assert [each.caption for each in views] == captions
    assert [each.winners.flatten().tolist() for each in views] == winners
    assert all(each.winners.shape == (1, 2, 2) for each in views)


@pytest.mark.parametrize(
    ("labels", "message"), [(["Anna"], "only one identity"), (["Anna", "Ben"], "nothing was recorded")]
)
def test_an_empty_record_is_explained(labels, message):
    from likeness.model_patches.routing_maps import RoutingRecord
    from likeness.nodes.routing_votes import routing_views

    with pytest.raises(ValueError, match=message):
        routing_views(RoutingRecord(tuple(labels)), "average")


def test_colours_lie_where_the_map_says_and_nobody_stays_uncoloured():
    from likeness.nodes.routing_overlay import COLOURS, overlay

    pictures = torch.full((1, 4, 6, 3), 0.5)
    drawn = overlay(pictures, maps([0, 1, NOBODY]), opacity=1.0)
    for column, colour in enumerate(COLOURS[:2]):
        rgb = torch.tensor([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
        torch.testing.assert_close(drawn[0, :, 2 * column : 2 * column + 2], rgb.expand(4, 2, 3))
    assert (drawn[0, :, 4:] == 0.5).all()
    assert torch.equal(overlay(pictures, maps([0, 1, NOBODY]), opacity=0.0), pictures)


def test_the_legend_stays_in_its_corner_and_shows_every_colour():
    from likeness.nodes.routing_overlay import COLOURS, draw_legend

    picture = torch.full((512, 512, 3), 0.25)
    drawn = (draw_legend(picture, ["Anna", "Ben"], "step 1 of 2") * 255).round().to(torch.uint8)
    assert (drawn[:400] == 64).all() and (drawn[:, 300:] == 64).all()
    present = {tuple(pixel) for pixel in drawn[400:, :300].reshape(-1, 3).tolist()}
    for colour in COLOURS[:2]:
        assert tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5)) in present


def test_there_is_a_colour_for_everybody():
    from likeness.nodes.people import MOST_PEOPLE
    from likeness.nodes.routing_overlay import COLOURS

    assert len(set(COLOURS)) == len(COLOURS) >= MOST_PEOPLE


def test_pictures_of_another_run_are_refused(node_classes):
    with pytest.raises(ValueError, match="1 picture were recorded|3 pictures were recorded, but image holds 2"):
        three = record()
        three.maps[:] = [{1: torch.zeros(3, 2, 2, dtype=torch.uint8)}]
        node_classes["Likeness_RoutingMaps"].execute(three, torch.zeros(2, 16, 16, 3), "average", 0.5)
