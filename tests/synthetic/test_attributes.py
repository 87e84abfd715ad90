from __future__ import annotations

import numpy as np
import pytest
from likeness.synthetic import COLOUR_NAMES, draw_scene, render
from likeness.synthetic import test_people as unseen_people
from likeness.synthetic.attributes import background_colour, head_turn, shirt_colour
from likeness.synthetic.palette import COLOURS
from likeness.synthetic.scene import TURNS

FEWEST = 0.97


@pytest.mark.parametrize("level", ["plain", "busy"])
@pytest.mark.parametrize(("count", "size"), [(1, (64, 64)), (2, (64, 128)), (2, (128, 128))])
def test_colours_are_read_back_from_true_pictures(count, size, level):
    people = unseen_people(60 * count, first=500)
    scenes = [draw_scene(people[row * count :][:count], 70 + row, size, level) for row in range(60)]
    drawn = render(scenes, supersampling=1)
    backgrounds = [background_colour(image).name for image in drawn.images]
    assert np.mean([name == scene.background.name for name, scene in zip(backgrounds, scenes, strict=True)]) >= FEWEST
    right = [
        (reading := shirt_colour(drawn.images[row], tuple(drawn.boxes[row, place].tolist()))) is not None
        and reading.name == person.shirt
        for row, scene in enumerate(scenes)
        for place, person in enumerate(scene.people)
    ]
    assert np.mean(right) >= FEWEST


def test_colours_are_read_with_a_detected_box(pictures, faces_of, small_scenes):
    images = pictures(small_scenes[:12], 4)
    for scene, image, faces in zip(small_scenes, images, faces_of(images), strict=False):
        assert shirt_colour(image, faces[0].box).name == scene.people[0].shirt


def test_where_heads_turn_is_read_with_detected_landmarks(pictures, faces_of, small_scenes):
    found = faces_of(pictures(small_scenes, 4))
    right = [
        head_turn(faces[0].landmarks) == scene.people[0].turn
        for scene, faces in zip(small_scenes, found, strict=False)
        if faces
    ]
    assert len(right) >= 23 and np.mean(right) > 0.9
    assert {scene.people[0].turn for scene in small_scenes} == set(TURNS)


def test_a_rolled_head_turns_nowhere():
    ahead = np.array([[0, 0], [10, 0], [5, 5], [1, 10], [9, 10]], float)
    angle = 0.4
    roll = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    aside = ahead + np.array([[0, 0], [0, 0], [2, 0], [0, 0], [0, 0]])
    assert (head_turn(ahead @ roll), head_turn(aside @ roll)) == ("ahead", "right")


def test_a_reading_tells_how_sure_it_is():
    image = np.zeros((64, 64, 3), np.float32)
    image[:] = COLOURS["green"]
    sure = background_colour(image)
    assert (sure.name, sure.share) == ("green", 1.0) and sure.distance < 1e-6
    noisy = np.random.default_rng(0).random((64, 64, 3), np.float32)
    unsure = background_colour(noisy)
    assert unsure.share < 0.5 and unsure.distance > 0.1
    assert unsure.name in COLOUR_NAMES


def test_where_there_is_no_shirt_nothing_is_read():
    image = np.zeros((64, 64, 3), np.uint8)
    assert shirt_colour(image, (10, 20, 50, 64)) is None
    assert shirt_colour(image, (-40, 10, -10, 40)) is None
    with pytest.raises(ValueError, match="height, width, 3"):
        background_colour(image[..., 0])
