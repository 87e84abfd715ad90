"""Faces in pictures of all sizes, and in references."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.evaluation.found_faces import embed_references, look_at, upscale_factor
from likeness.evaluation.pictures import Reference, load_pixels


@pytest.mark.parametrize(
    ("shape", "factor"), [((64, 64), 4), ((96, 200), 3), ((128, 64), 4), ((256, 999), 1), ((512, 512), 1), ((8, 8), 8)]
)
def test_small_pictures_are_enlarged_to_256_pixels(shape, factor):
    assert upscale_factor(np.zeros((*shape, 3), np.uint8)) == factor


def test_the_factor_can_be_set():
    assert upscale_factor(np.zeros((64, 64, 3), np.uint8), 2) == 2
    with pytest.raises(ValueError, match=r"upscale must be 0 \(automatic\) or 1 to 8, got 9"):
        upscale_factor(np.zeros((64, 64, 3), np.uint8), 9)


@pytest.mark.parametrize("upscale", [0, 1, 3])
def test_boxes_come_back_in_the_pictures_own_pixels(draw, detector, make_judge, upscale):
    images = [draw("ann", "bob"), draw(), draw("cat", size=128)]
    found = look_at(images, detector, [make_judge()], upscale)
    assert [len(faces.faces) for faces in found] == [2, 0, 1]
    np.testing.assert_allclose(found[0].faces[0].box, (16, 16, 48, 48), atol=1)
    np.testing.assert_allclose(found[2].faces[0].box, (32, 32, 96, 96), atol=1)
    np.testing.assert_allclose(found[0].faces[0].landmarks.mean(axis=0), (32, 35), atol=1)
    np.testing.assert_allclose(found[0].embeddings["colours"], np.eye(4)[:2])
    assert found[1].embeddings["colours"].shape[0] == 0


def test_a_small_face_is_found_only_when_it_is_enlarged(photographs, bundled):
    assert len(look_at([photographs["small"]], bundled, [])[0].faces) == 1


def test_references_take_the_largest_face_of_each_photo(draw, detector, make_judge):
    reference = Reference("ann", (draw("ann", "bob"), draw("cat")))
    vectors = embed_references([reference], detector, [make_judge()])[reference]["colours"]
    np.testing.assert_allclose(vectors, np.eye(4)[[0, 2]])


def test_a_reference_without_a_face_is_named(draw, detector, make_judge, tmp_path):
    from PIL import Image

    Image.fromarray(draw()).save(tmp_path / "wall.png")
    with pytest.raises(ValueError, match="no face was found in the reference of ann .*wall.png, detector: colours"):
        embed_references([Reference("ann", (draw("ann"), tmp_path / "wall.png"))], detector, [make_judge()])
    with pytest.raises(ValueError, match="photo 1, detector"):
        embed_references([Reference("ann", (draw(),))], detector, [make_judge()])
    with pytest.raises(ValueError, match="no reference photo of bob"):
        embed_references([Reference("bob", ())], detector, [make_judge()])


def test_pictures_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be \(height, width, 3\) uint8, got \(4, 4\) float64"):
        load_pixels(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="missing.png could not be read"):
        load_pixels(tmp_path / "missing.png")
