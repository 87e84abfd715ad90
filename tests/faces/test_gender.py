"""The class word from insightface's attribute network."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.faces.gender import CLASS_WORDS, GenderNetwork, load_gender_network
from likeness.faces.insightface_packs import GENDER, missing_message

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def attribute_model(outputs: int = 3, side: int = 96) -> bytes:
    """An ONNX file in genderage.onnx's shape: random sums over a grid of the picture's mean colours.

    Both sexes come out for noise, and the grid and the colours count: another crop or channel order gives other words.
    """
    float_type, node = onnx.TensorProto.FLOAT, onnx.helper.make_node
    weights = np.random.default_rng(5).normal(size=(3 * 64, outputs)).astype(np.float32)
    nodes = [
        node("Identity", ["data"], ["plain"], name="bn_data"),  # by this name the library knows who normalises
        node("AveragePool", ["plain"], ["grid"], kernel_shape=[side // 8] * 2, strides=[side // 8] * 2),
        node("Flatten", ["grid"], ["row"]),
        node("MatMul", ["row", "weights"], ["fc1"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "genderage",
        [onnx.helper.make_tensor_value_info("data", float_type, ["None", 3, side, side])],
        [onnx.helper.make_tensor_value_info("fc1", float_type, ["None", outputs])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def boxes_and_pictures():
    """Noise in blocks, with boxes of all shapes, some of them over the edge."""
    random = np.random.default_rng(1)
    for _ in range(40):
        picture = random.integers(0, 256, (12, 15, 3), np.uint8).repeat(20, axis=0).repeat(20, axis=1)
        x, y, width, height = random.uniform((-20, -20, 30, 30), (200, 150, 140, 120))
        yield picture, (x, y, x + width, y + height)


def test_words_are_those_of_the_insightface_library(tmp_path):
    attribute = pytest.importorskip("insightface.model_zoo.attribute")
    path = tmp_path / "genderage.onnx"
    path.write_bytes(attribute_model())
    oracle, network = attribute.Attribute(str(path)), GenderNetwork(path.read_bytes(), "test")
    words = []
    for picture, box in boxes_and_pictures():
        face = type("Face", (dict,), {"bbox": np.array(box)})()
        gender, _ = oracle.get(np.ascontiguousarray(picture[..., ::-1]), face)
        words.append(network.class_word(picture, box))
        assert words[-1] == {0: "woman", 1: "man"}[gender]
    assert set(words) == set(CLASS_WORDS)


@pytest.mark.parametrize("pack", ["buffalo_l", "antelopev2"])
def test_the_network_is_found_in_both_packs(tmp_path, pack):
    assert load_gender_network([tmp_path]) is None
    (tmp_path / "models" / pack).mkdir(parents=True)
    (tmp_path / "models" / pack / "genderage.onnx").write_bytes(attribute_model())
    network = load_gender_network([tmp_path])
    assert network.class_word(np.zeros((20, 20, 3), np.uint8), (0, 0, 20, 20)) in CLASS_WORDS


def test_without_it_a_message_says_what_to_do(tmp_path):
    message = missing_message(GENDER, [tmp_path])
    assert "no insightface gender network was found" in message and "genderage.onnx (pack buffalo_l)" in message
    assert "choose the class word yourself" in message


def test_a_box_without_area_is_read_as_one_pixel():
    network = GenderNetwork(attribute_model(), "test")
    assert network.class_word(np.zeros((20, 20, 3), np.uint8), (5, 5, 5, 5)) in CLASS_WORDS


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"the gender network genderage\.onnx in .* is damaged or not an ONNX model"):
        (tmp_path / "genderage.onnx").write_bytes(b"not a model")
        load_gender_network([tmp_path])
    with pytest.raises(ValueError, match="test is not a network for gender and age.*3 numbers are expected"):
        GenderNetwork(attribute_model(outputs=212), "test")
