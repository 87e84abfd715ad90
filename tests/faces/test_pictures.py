from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.faces.pictures import open_picture, pictures_from_tensor
from PIL import Image


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_every_grey_level_survives_exactly(dtype):
    levels = torch.arange(256)
    images = (levels / 255).to(dtype).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    (picture,) = pictures_from_tensor(images)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[..., 1].ravel(), levels.numpy())


def test_channels_keep_their_order_and_the_batch_its_pictures():
    images = torch.zeros(2, 3, 5, 3)
    images[1, 2, 4] = torch.tensor([1.0, 0.5, 0.0])
    first, second = pictures_from_tensor(images)
    assert first.max() == 0 and second.shape == (3, 5, 3) and second[2, 4].tolist() == [255, 128, 0]


def test_values_outside_are_clipped():
    (picture,) = pictures_from_tensor(torch.tensor([-0.2, 1.4, 0.5]).reshape(1, 1, 1, 3))
    assert picture[0, 0].tolist() == [0, 255, 128]


def test_grey_pictures_become_rgb():
    (picture,) = pictures_from_tensor(torch.full((1, 2, 2, 1), 0.2))
    assert picture.shape == (2, 2, 3) and (picture == 51).all()


def test_transparent_parts_become_grey_and_opaque_ones_stay():
    images = torch.tensor([[1.0, 0.2, 0.0, 1.0], [1.0, 0.2, 0.0, 0.0]]).reshape(1, 1, 2, 4)
    (picture,) = pictures_from_tensor(images)
    assert picture[0].tolist() == [[255, 51, 0], [128, 128, 128]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_name_their_picture(bad):
    images = torch.zeros(3, 700, 4, 3)
    images[1, 650, 2, 0] = bad
    with pytest.raises(ValueError, match="picture 2 of 3 holds values that are NaN or infinite"):
        pictures_from_tensor(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 4, 3), "batch, height, width"),
        (torch.zeros(1, 4, 4, 2), "1, 3 or 4 channels"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "float tensor"),
        (torch.zeros(0, 4, 4, 3), "no picture"),
        (torch.zeros(1, 0, 4, 3), "no picture"),
    ],
)
def test_other_tensors_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        pictures_from_tensor(images)


def test_extreme_sizes():
    (tiny,) = pictures_from_tensor(torch.ones(1, 1, 1, 3))
    assert tiny.tolist() == [[[255, 255, 255]]]
    (huge,) = pictures_from_tensor(torch.tensor([0.2, 0.4, 0.6]).expand(1, 6000, 8000, 3))
    assert huge.shape == (6000, 8000, 3) and huge[5999, 7999].tolist() == [51, 102, 153]


def test_the_input_tensor_is_not_written_to():
    images = torch.rand(1, 4, 4, 4)
    before = images.clone()
    pictures_from_tensor(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_files_are_turned_as_exif_says(tmp_path, orientation, turn):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(open_picture(tmp_path / "turned.png"), np.rot90(pixels, turn))


def test_files_with_alpha_grey_palette_and_16_bits(tmp_path):
    Image.new("RGBA", (2, 1), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (open_picture(tmp_path / "clear.png") == 128).all()
    Image.new("L", (2, 1), 77).save(tmp_path / "grey.png")
    assert open_picture(str(tmp_path / "grey.png")).tolist() == [[[77] * 3] * 2]
    Image.new("RGB", (2, 1), (9, 200, 30)).quantize().save(tmp_path / "palette.gif")
    assert open_picture(tmp_path / "palette.gif").tolist() == [[[9, 200, 30]] * 2]
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png")[0, :, 2].tolist() == [0, 100, 255]


def test_files_and_tensors_treat_alpha_alike(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (7, 5, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    (picture,) = pictures_from_tensor(torch.from_numpy(pixels / 255.0)[None])
    assert np.abs(open_picture(tmp_path / "picture.png").astype(int) - picture).max() <= 1


@pytest.mark.parametrize("content", [None, b"", b"not a picture"])
def test_files_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "face.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="face.jpg could not be read"):
        open_picture(path)


def test_a_cut_off_file_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match="cut.png could not be read"):
        open_picture(tmp_path / "cut.png")
