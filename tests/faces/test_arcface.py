from __future__ import annotations

import numpy as np
import pytest
from likeness.faces.arcface import ArcFace, load_recogniser, network_input
from likeness.faces.onnx_sessions import chosen_providers


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (20, 112, 112, 3), np.uint8)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_embeddings_are_what_the_network_gives_for_rgb_from_minus_one_to_one(recogniser_model, crops, batch):
    """Not normalised, and the same for one crop as among twenty, of which the network sees sixteen at once."""
    recogniser = ArcFace(recogniser_model(batch=batch), "test")
    got = recogniser.embed(crops)
    expected = (crops / 127.5 - 1).reshape(20, 2, 56, 2, 56, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(20, 12)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(recogniser.embed(crops[7:8]), got[7:8], atol=1e-6)


@pytest.mark.parametrize("size", [96, 224, 512])
def test_other_sizes_are_scaled_as_the_insightface_library_does(size):
    """One grey level of difference: OpenCV, which the library uses, rounds weights to fixed point."""
    cv2 = pytest.importorskip("cv2")
    crop = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    expected = (cv2.resize(crop, (112, 112)).astype(np.float32) - 127.5) / 127.5
    np.testing.assert_allclose(network_input(crop[None])[0].transpose(1, 2, 0), expected, atol=1.001 / 127.5)


def test_the_recogniser_of_a_pack_is_loaded(recogniser_model, crops, tmp_path):
    folder = tmp_path / "models" / "antelopev2" / "antelopev2"
    folder.mkdir(parents=True)
    (folder / "glintr100.onnx").write_bytes(recogniser_model())
    assert load_recogniser([tmp_path]).embed(crops[:2]).shape == (2, 12)


def test_a_missing_recogniser_is_named_with_folders_and_source(tmp_path):
    with pytest.raises(ValueError, match="no insightface ArcFace recogniser was found") as raised:
        load_recogniser([tmp_path])
    message = str(raised.value)
    for part in ("glintr100.onnx (pack antelopev2)", str(tmp_path / "models" / "antelopev2"), "github.com/deepinsight"):
        assert part in message


def test_files_that_are_no_recogniser_are_named(recogniser_model, tmp_path):
    (tmp_path / "glintr100.onnx").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"glintr100.onnx in .* is damaged or not an ONNX model"):
        load_recogniser([tmp_path])
    (tmp_path / "glintr100.onnx").write_bytes(recogniser_model(side=64))
    with pytest.raises(ValueError, match=r"glintr100.onnx in .* is not a face recogniser of the ArcFace family"):
        load_recogniser([tmp_path])


def test_a_provider_can_be_named(recogniser_model, crops, tmp_path, caplog):
    """One that the runtime lacks is no error: a graph made on another machine should run."""
    (tmp_path / "glintr100.onnx").write_bytes(recogniser_model())
    on_the_cpu = load_recogniser([tmp_path], "CPU").embed(crops[:2])
    assert not caplog.messages
    np.testing.assert_array_equal(load_recogniser([tmp_path], "DirectML").embed(crops[:2]), on_the_cpu)
    assert "runs on the CPU: the installed onnxruntime does not offer DirectML" in caplog.text


def test_the_named_provider_has_the_cpu_behind_it():
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert chosen_providers(offered) == offered[1:]
    assert chosen_providers(offered, "CUDA") == offered[1:]
    assert chosen_providers(offered, "CPU") == chosen_providers(offered, "ROCM") == offered[2:]
