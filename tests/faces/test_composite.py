from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.faces.composite import WHITENED, clip_input, composite, composite_pictures, label_map, parser_input


@pytest.fixture
def examples(golden):
    """The pictures of golden 08: pixels, labels, expected tensors, and the size of CLIP's input."""
    file = golden("pulid", "08_face_composite")
    inputs, expected, config = file.inputs(), file.expected(), file.metadata["config"]
    assert config["n_images"] > 0
    found = []
    for name in (f"img{number}." for number in range(config["n_images"])):
        crop = inputs[f"{name}aligned_bgr_uint8"].flip(-1)
        mine = {key.removeprefix(name): value for key, value in expected.items() if key.startswith(name)}
        labels = label_map(inputs[f"{name}parsing_logits"])
        found.append((crop.movedim(-1, 0)[None].float() / 255, labels, mine, config["clip_size"]))
    return found


def test_golden_pulid_08_parser(examples):
    for pixels, labels, expected, _ in examples:
        torch.testing.assert_close(parser_input(pixels), expected["parse_input_normalised"], rtol=0, atol=1e-6)
        torch.testing.assert_close(labels, expected["parse_label_map"], rtol=0, atol=0)


def test_golden_pulid_08_composite(examples):
    for pixels, labels, expected, _ in examples:
        got = composite(pixels, labels)
        torch.testing.assert_close(got, expected["composite_rgb"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(composite_pictures(got)[0], expected["composite_rgb_uint8"].numpy())


@pytest.mark.parametrize("antialias", [True, False])
def test_golden_pulid_08_clip_input(examples, antialias):
    """Tolerance of the file: 1e-5."""
    for pixels, labels, expected, size in examples:
        wanted = expected["clip_input_antialias" if antialias else "clip_input_no_antialias"]
        got = clip_input(composite(pixels, labels), size, antialias)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_hair_face_and_glasses_are_kept_and_all_else_is_white():
    pixels, labels = torch.rand(1, 3, 1, 19), torch.arange(19, dtype=torch.uint8).reshape(1, 1, 1, 19)
    got, grey = composite(pixels, labels), pixels[:, 0] * 0.299 + pixels[:, 1] * 0.587 + pixels[:, 2] * 0.114
    for label in range(19):
        kept = label in {1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 17}
        assert kept != (label in WHITENED)
        torch.testing.assert_close(got[0, :, 0, label], (grey[0, 0, label] if kept else torch.tensor(1.0)).expand(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pixels_keep_their_type_and_clip_reads_float32(dtype):
    pixels, labels = torch.rand(2, 3, 32, 32).to(dtype), torch.randint(0, 19, (2, 1, 32, 32), dtype=torch.uint8)
    before = pixels.clone()
    got = composite(pixels, labels)
    assert got.dtype == dtype and torch.equal(pixels, before)
    assert clip_input(got, 21, antialias=True).dtype == torch.float32


def test_overshoot_of_the_resize_stays():
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    white = clip_input(torch.ones(1, 3, 64, 64), 42, antialias=False)
    assert (clip_input(edge, 42, antialias=False) > white + 0.01).any()
