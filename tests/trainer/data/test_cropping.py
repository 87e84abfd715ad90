from __future__ import annotations

import numpy as np
import pytest
from likeness.trainer.data.cropping import box_masks, crop_window, nearest_size


def inside(box, window):
    return (
        window[0] <= box[0] + 1e-6
        and window[1] <= box[1] + 1e-6
        and box[2] <= window[2] + 1e-6
        and box[3] <= window[3] + 1e-6
    )


def test_without_reason_to_move_the_middle_is_shown():
    assert crop_window((200, 100), [], (64, 64)).box == (50, 0, 150, 100)
    assert crop_window((100, 300), [(20, 120, 60, 170)], (64, 64)).box == (0, 100, 100, 200)
    assert crop_window((64, 64), [(1, 1, 60, 60)], (64, 64)).box == (0, 0, 64, 64)


def test_the_window_moves_just_far_enough_for_all_faces():
    window = crop_window((200, 100), [(170, 10, 190, 40), (120, 20, 140, 50)], (64, 64))
    assert window.box == (90, 0, 190, 100)
    assert window.kept == (0, 1)


def test_faces_that_fit_are_always_whole():
    random = np.random.default_rng(0)
    for _ in range(500):
        width, height = random.integers(40, 400, 2).tolist()
        size = tuple((random.integers(4, 12, 2) * 8).tolist())
        boxes = []
        for _ in range(int(random.integers(1, 4))):
            x, y = random.uniform(0, width * 0.8), random.uniform(0, height * 0.8)
            boxes.append((x, y, x + random.uniform(1, width * 0.3), y + random.uniform(1, height * 0.3)))
        clipped = [(max(a, 0), max(b, 0), min(c, width), min(d, height)) for a, b, c, d in boxes]
        window = crop_window((width, height), boxes, size)
        x1, y1, x2, y2 = window.box
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1) / (y2 - y1) == pytest.approx(size[0] / size[1])
        assert x2 - x1 == pytest.approx(width) or y2 - y1 == pytest.approx(height)
        spans = [max(b[i + 2] for b in clipped) - min(b[i] for b in clipped) for i in (0, 1)]
        if spans[0] <= x2 - x1 and spans[1] <= y2 - y1:
            assert all(inside(box, window.box) for box in clipped)
            assert window.kept == tuple(range(len(boxes)))


def test_of_faces_that_do_not_fit_together_most_are_kept():
    three = [(10, 10, 60, 80), (260, 10, 290, 60), (220, 10, 250, 60)]
    window = crop_window((300, 100), three, (64, 64))
    assert window.kept == (1, 2)
    assert all(inside(three[face], window.box) for face in (1, 2))


def test_of_equally_many_the_larger_face_is_kept():
    assert crop_window((300, 100), [(0, 10, 60, 90), (250, 10, 290, 60)], (64, 64)).kept == (0,)


def test_a_face_wider_than_the_window_is_still_shown():
    window = crop_window((100, 400), [(10, 20, 90, 380)], (64, 64))
    assert window.box[1] >= 20 and window.box[3] <= 380
    assert window.kept == ()


def test_boxes_landmarks_picture_and_labels_move_together():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[20:60, 110:150] = 255
    labels = (picture[..., 0] > 0).astype(np.uint8)
    window = crop_window((200, 100), [(110, 20, 150, 60)], (48, 48))
    (box,) = window.cut_boxes([(110, 20, 150, 60)])
    np.testing.assert_allclose(box, [(110 - 50) * 0.48, 9.6, (150 - 50) * 0.48, 28.8])
    np.testing.assert_allclose(window.transform(np.array([[130.0, 40.0]])), [[38.4, 19.2]])
    cut, cut_labels, (mask,) = window.cut_picture(picture), window.cut_labels(labels), box_masks(box[None], (48, 48))
    assert cut.shape == (48, 48, 3) and cut_labels.shape == (48, 48)
    np.testing.assert_array_equal(cut_labels > 0, mask)
    np.testing.assert_array_equal(cut[..., 0] > 127, mask)


def test_a_picture_of_the_training_size_is_not_touched():
    picture = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    window = crop_window((128, 64), [(100, 1, 120, 30)], (128, 64))
    assert window.cut_picture(picture) is picture


def test_box_masks_hold_the_pixels_whose_centre_is_inside():
    masks = box_masks(
        np.array([(1.0, 0.0, 3.0, 2.0), (1.6, 0.4, 2.4, 3.0), (3.9, 3.9, 4.0, 4.0), (0, 0, 4, 4)]), (4, 4)
    )
    assert masks.shape == (4, 4, 4)
    assert np.argwhere(masks[0]).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert np.argwhere(masks[1]).tolist() == [[0, 2], [1, 2], [2, 2]]  # narrower than a pixel
    assert np.argwhere(masks[2]).tolist() == [[3, 3]]
    assert masks[3].all()


def test_pictures_go_to_the_size_of_the_nearest_shape():
    sizes = ((512, 512), (512, 768), (768, 512))
    assert [sizes[nearest_size(size, sizes)] for size in [(1000, 990), (600, 1000), (3000, 2000), (2000, 100)]] == [
        (512, 512),
        (512, 768),
        (768, 512),
        (768, 512),
    ]
