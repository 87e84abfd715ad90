"""Photographs with known faces, the bundled detector, and a tiny SCRFD network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from likeness.faces.mtcnn import MTCNN
from likeness.faces.types import Face, Faces
from PIL import Image


@pytest.fixture(scope="session")
def detector() -> MTCNN:
    return MTCNN()


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """One person, 512 x 512 (NASA, public domain)."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="session")
def six_people() -> np.ndarray:
    """Six people, 1280 x 886, read from the installed insightface package."""
    package = Path(pytest.importorskip("insightface").__file__).parent
    return np.array(Image.open(package / "data" / "images" / "t1.jpg").convert("RGB"))


@pytest.fixture
def make_faces() -> Callable[..., Faces]:
    """`make_faces([(x1, y1, x2, y2, score, image_index), ...], sizes)` with landmarks inside each box."""

    def make(rows: list[tuple[float, ...]], sizes: tuple[tuple[int, int], ...] = ((100, 200),)) -> Faces:
        spots = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.3, 0.8), (0.7, 0.8)], np.float32)
        faces = []
        for x1, y1, x2, y2, score, index in rows:
            landmarks = spots * np.float32([x2 - x1, y2 - y1]) + np.float32([x1, y1])
            faces.append(Face((x1, y1, x2, y2), landmarks, score, int(index)))
        return Faces(tuple(np.full((*size, 3), 90, np.uint8) for size in sizes), tuple(faces), "test")

    return make


@pytest.fixture(scope="session")
def scrfd_model() -> Callable[..., bytes]:
    """`scrfd_model(...)`: an ONNX file with SCRFD's nine outputs whose scores follow the brightness of the cells.

    widest: inputs wider than this give no face. side: a fixed input size. batched: outputs have a batch axis.
    """
    onnx = pytest.importorskip("onnx")
    node, value_info, float_type = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT

    def build(widest: int = 640, side: int | None = None, batched: bool = False) -> bytes:
        random, batch = np.random.default_rng(3), [1] if batched else []
        weights = {"widest": np.array([widest], np.float32)}
        nodes = [
            node("Shape", ["input.1"], ["shape"], start=3, end=4),
            node("Cast", ["shape"], ["width"], to=float_type),
            node("Sub", ["width", "widest"], ["excess"]),
            node("Relu", ["excess"], ["penalty"]),
        ]
        for stride in (8, 16, 32):
            nodes.append(
                node("AveragePool", ["input.1"], [f"x{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2)
            )
        outputs = []
        for kind, (width, spread, bias) in (
            ("score", (1, 0.3, -0.4)),
            ("box", (4, 0.3, 2.5)),
            ("points", (10, 0.5, 0.0)),
        ):
            for stride in (8, 16, 32):
                name = f"{kind}_{stride}"
                weight = random.normal(size=(2 * width, 3, 1, 1)) * spread + (kind == "score")
                weights[f"{name}_w"] = weight.astype(np.float32)
                weights[f"{name}_b"] = np.full(2 * width, bias, np.float32)
                weights[f"{name}_s"] = np.array([*batch, -1, width])
                last = ["Sub", "Sigmoid"] if kind == "score" else ["Identity", "Identity"]
                nodes += [
                    node("Conv", [f"x{stride}", f"{name}_w", f"{name}_b"], [f"{name}_conv"]),
                    node("Transpose", [f"{name}_conv"], [f"{name}_nhwc"], perm=[0, 2, 3, 1]),
                    node("Reshape", [f"{name}_nhwc", f"{name}_s"], [f"{name}_rows"]),
                    node(last[0], [f"{name}_rows", *(["penalty"] if kind == "score" else [])], [f"{name}_raw"]),
                    node(last[1], [f"{name}_raw"], [name]),
                ]
                outputs.append(value_info(name, float_type, [*batch, f"cells_{stride}", width]))
        sides = [side, side] if side else ["height", "width"]
        tensors = [onnx.numpy_helper.from_array(value, key) for key, value in weights.items()]
        inputs = [value_info("input.1", float_type, [1, 3, *sides])]
        graph = onnx.helper.make_graph(nodes, "scrfd", inputs, outputs, tensors)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    return build
