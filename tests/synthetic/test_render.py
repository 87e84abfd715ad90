from __future__ import annotations

import pytest
import torch
from likeness.synthetic import draw_reference, draw_scene, render, train_people

PEOPLE = train_people(12, first=50)


@pytest.fixture
def one_core():
    """Bits are promised for one thread: with several, a chunk's odd rest may be computed by another routine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("supersampling", [1, 2])
def test_a_picture_does_not_depend_on_its_batch(one_core, supersampling):
    scenes = [draw_scene([person], person, (64, 64), "busy") for person in PEOPLE]
    scenes += [draw_scene(PEOPLE[start : start + 2], start, (64, 64)) for start in range(3)]
    together = render(scenes, supersampling=supersampling)
    backwards = render(scenes[::-1], supersampling=supersampling)
    for row, scene in enumerate(scenes):
        alone = render([scene], supersampling=supersampling)
        people = len(scene.people)
        for other, place in ((together, row), (backwards, -1 - row)):
            assert other.images[place].equal(alone.images[0])
            assert other.masks[place, :people].equal(alone.masks[0])
            assert other.boxes[place, :people].equal(alone.boxes[0])
            assert other.landmarks[place, :people].equal(alone.landmarks[0])


def test_shapes_ranges_and_counts():
    scenes = [draw_scene(PEOPLE[:count], count, (64, 128)) for count in (1, 2, 3)]
    drawn = render(scenes)
    assert drawn.images.shape == (3, 64, 128, 3) and drawn.images.dtype == torch.float32
    assert drawn.masks.shape == (3, 3, 64, 128)
    assert drawn.landmarks.shape == (3, 3, 5, 2) and drawn.boxes.shape == (3, 3, 4)
    assert drawn.counts.tolist() == [1, 2, 3]
    assert drawn.images.min() >= 0 and drawn.images.max() <= 1
    assert drawn.masks.min() >= 0 and drawn.masks.max() <= 1 + 1e-6
    assert drawn.masks[0, 1:].eq(0).all() and drawn.boxes[1, 2].eq(0).all()


def test_masks_landmarks_and_boxes_belong_together():
    scenes = [draw_scene(PEOPLE[start : start + 2], start, (64, 128)) for start in range(10)]
    drawn = render(scenes)
    assert drawn.masks.sum(dim=1).max() <= 1 + 1e-5  # nobody's pixels are two people's
    for row in range(len(scenes)):
        for person in range(2):
            x1, y1, x2, y2 = drawn.boxes[row, person].tolist()
            eyes, points = drawn.landmarks[row, person, :2], drawn.landmarks[row, person]
            assert eyes[0, 0] < eyes[1, 0] < x2 and points[3, 0] < points[4, 0]
            assert eyes[:, 1].max() < points[2, 1] < points[3:, 1].min() < y2
            mask = drawn.masks[row, person]
            inside = mask[round(y1) : round(y2), max(0, round(x1)) : round(x2)].mean()
            assert inside > 0.8
            for x, y in points.round().long().tolist():
                assert mask[y, x] > 0.5
            assert mask[:, : 64 if person else 0].sum() + mask[:, 64 if person == 0 else 128 :].sum() < 0.1 * mask.sum()


def test_left_and_right_are_the_viewers():
    left, right = (draw_scene(PEOPLE[:1], 3, (128, 128), turn=turn) for turn in ("left", "right"))
    points = render([left, right]).landmarks[:, 0]
    middle = points[:, :2, 0].mean(dim=1)
    assert points[0, 2, 0] < middle[0] and points[1, 2, 0] > middle[1]


def test_identity_and_nuisance_are_apart():
    """With another person a scene changes in the head only, and the head stays in another shirt."""
    here, other = (render([draw_scene([person], 9, (64, 64), shirt="red")]) for person in PEOPLE[:2])
    changed = (here.images - other.images).abs().amax(dim=-1)[0]
    assert changed[:10, :6].max() == 0 and changed[32].max() > 0.2
    clothed = render([draw_scene(PEOPLE[:1], 9, (64, 64), shirt="blue")])
    head = here.masks[0, 0] > 0.999
    assert (clothed.images - here.images)[0][head].abs().quantile(0.95) < 0.01
    assert (clothed.images - here.images)[0].abs().max() > 0.5


def test_sizes_show_the_same_scene():
    small, large = (render([draw_scene(PEOPLE[:2], 5, size)]) for size in ((64, 128), (128, 256)))
    assert (large.landmarks / 2 - small.landmarks).abs().max() < 0.6
    shrunk = torch.nn.functional.avg_pool2d(large.images.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert (shrunk - small.images).abs().mean() < 0.02


def test_a_reference_may_be_larger():
    assert render([draw_reference(PEOPLE[0])]).images.shape == (1, 256, 256, 3)


def test_one_call_draws_one_size():
    with pytest.raises(ValueError, match="one size"):
        render([draw_scene(PEOPLE[:1], 0, (64, 64)), draw_scene(PEOPLE[:1], 0, (64, 128))])
    with pytest.raises(ValueError, match="no scenes"):
        render([])
