from __future__ import annotations

import logging

import numpy as np
import pytest
from likeness.faces.onnx_sessions import usable_providers
from likeness.faces.scrfd import SCRFD, letterbox

pytest.importorskip("onnxruntime")


@pytest.fixture
def blobs() -> np.ndarray:
    """A dark picture (480, 640, 3) with bright spots, which the synthetic network takes for faces."""
    y, x = np.mgrid[:480, :640]
    spots = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * r**2)) for cx, cy, r in ((140, 120, 50), (450, 300, 70)))
    texture = np.random.default_rng(0).normal(size=(48, 64, 3)).repeat(10, axis=0).repeat(10, axis=1)
    return (spots[..., None] * (210, 190, 230) + texture * 9 + 15).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", ["wide", "tall", "square"])
@pytest.mark.parametrize("batched", [False, True])
def test_results_are_those_of_the_insightface_library(tmp_path, scrfd_model, blobs, shape, batched):
    """The library's own class on the same file, on pictures that fill the input, so that no resizing differs."""
    library = pytest.importorskip("insightface.model_zoo.scrfd")
    square = np.concatenate([blobs, blobs[:160]])
    picture = {"wide": blobs, "tall": np.ascontiguousarray(blobs.swapaxes(0, 1)), "square": square}[shape]
    path = tmp_path / "det_10g.onnx"
    path.write_bytes(scrfd_model(batched=batched))
    oracle = library.SCRFD(model_file=str(path))
    oracle.prepare(-1, input_size=(640, 640), det_thresh=0.5)
    boxes, points = oracle.detect(np.ascontiguousarray(picture[..., ::-1]))
    found = SCRFD(path.read_bytes(), "test").detect(picture)
    assert len(found) == len(boxes) > 10
    np.testing.assert_allclose([face.box for face in found], boxes[:, :4], atol=1e-3)
    np.testing.assert_allclose([face.landmarks for face in found], points, atol=1e-3)
    np.testing.assert_allclose([face.score for face in found], boxes[:, 4], atol=1e-5)


@pytest.mark.parametrize("size", [(300, 420), (420, 300), (886, 1280), (1000, 999), (641, 3), (640, 640)])
def test_letterbox_is_that_of_the_insightface_library(size):
    """One grey level of difference: OpenCV, which the library uses, rounds weights to fixed point."""
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    ratio = float(size[0]) / size[1]
    height, width = (640, int(640 / ratio)) if ratio > 1 else (int(640 * ratio), 640)
    canvas, scale = letterbox(picture, 640)
    assert canvas.shape == (640, 640, 3) and scale == height / size[0]
    assert canvas[height:].max(initial=0) == 0 and canvas[:, width:].max(initial=0) == 0
    difference = np.abs(canvas[:height, :width].astype(int) - cv2.resize(picture, (width, height)))
    assert difference.max() <= 1


@pytest.mark.parametrize("shrink", [1, 2, 3])
def test_results_are_in_the_pixels_of_the_picture(scrfd_model, blobs, shrink):
    """The brightest spot is the best face whatever the picture's size."""
    picture = blobs[::shrink, ::shrink]
    best = SCRFD(scrfd_model(), "test").detect(picture)[0]
    x1, y1, x2, y2 = (side * shrink for side in best.box)
    assert abs((x1 + x2) / 2 - 450) < 40 and abs((y1 + y2) / 2 - 300) < 40


@pytest.mark.parametrize(("widest", "reached"), [(640, 640), (448, 448), (320, 320), (200, None)])
def test_smaller_inputs_are_tried_until_a_face_is_found(scrfd_model, blobs, widest, reached):
    detector = SCRFD(scrfd_model(widest=widest), "test")
    found = detector.detect(blobs)
    assert bool(found) == (reached is not None)
    if reached is not None:
        only = SCRFD(scrfd_model(widest=widest), "test", sizes=(reached,)).detect(blobs)
        assert [face.box for face in found] == [face.box for face in only]


def test_a_file_with_a_fixed_input_is_used_at_its_size(scrfd_model, blobs):
    assert SCRFD(scrfd_model(side=320), "test").detect(blobs)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_tiny_and_thin_pictures_do_not_crash(scrfd_model, size):
    assert SCRFD(scrfd_model(), "test").detect(np.zeros((*size, 3), np.uint8)) == []


def test_files_that_do_not_fit_are_named(scrfd_model):
    onnx = pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="insightface buffalo_l is damaged or not an ONNX model"):
        SCRFD(b"not a model", "insightface buffalo_l")
    model = onnx.load_from_string(scrfd_model())
    del model.graph.output[6:]
    with pytest.raises(ValueError, match="it has 6 outputs where SCRFD has 9"):
        SCRFD(model.SerializeToString(), "test")


def test_providers_are_what_the_runtime_offers_in_its_order():
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "ROCMExecutionProvider", "CPUExecutionProvider"]
    assert usable_providers(offered) == offered[1:]
    assert usable_providers(["MIGraphXExecutionProvider", "CPUExecutionProvider"])[0] == "MIGraphXExecutionProvider"
    assert usable_providers([]) == ["CPUExecutionProvider"]


def test_a_provider_that_cannot_start_is_logged_once_and_the_cpu_used(scrfd_model, blobs, monkeypatch, caplog):
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["AbsentExecutionProvider", "CPUExecutionProvider"]
    )
    with caplog.at_level(logging.WARNING, "likeness.faces"), pytest.warns(UserWarning, match="AbsentExecutionProvider"):
        detector = SCRFD(scrfd_model(), "test")
        assert detector.detect(blobs) and detector.detect(blobs)
    assert [record.getMessage() for record in caplog.records] == [
        "the detector test runs on CPUExecutionProvider: onnxruntime could not start AbsentExecutionProvider"
    ]
