from __future__ import annotations

import pytest
from likeness.synthetic import VOCABULARY, caption, draw_scene, train_people
from likeness.synthetic.captions import words


def test_captions_keep_to_the_vocabulary_and_use_all_of_it():
    people = train_people(3)
    said = {
        word
        for seed in range(120)
        for count in (1, 2, 3)
        for complete in (False, True)
        for word in words(caption(draw_scene(people[:count], seed), complete))
    }
    assert said == set(VOCABULARY)


def test_a_complete_caption_names_everything():
    scene = draw_scene(
        train_people(2), 4, shirt=["orange", "blue"], background="pink", expression="sad", gaze="left", turn="right"
    )
    text = caption(scene, complete=True)
    assert "two people" in text
    assert "on a pink background" in text
    assert "left person in an orange shirt, sad, facing right, looking left" in text
    assert "right person in a blue shirt, sad, facing right, looking left" in text


def test_a_short_caption_says_nothing_that_the_complete_one_does_not():
    for seed in range(50):
        scene = draw_scene(train_people(1), seed)
        short, complete = caption(scene).split(", "), caption(scene, complete=True)
        assert all(part in complete for part in short[1:])


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="do not know dragon"):
        words("a photo of one dragon")
