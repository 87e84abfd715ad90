"""A face recogniser as an ONNX file, written without the package onnx: its embedding is the mean colours of quarters.

ONNX files are protocol buffers: fields of a number, a wire type (0 a number, 2 bytes with their length) and a value.
Field numbers are those of the format's definition (onnx.proto).
"""

from __future__ import annotations

SIDE = 112  # pixels of the crop that such networks read
EMBEDDING = 12  # three colours of four quarters
_OPSET, _IR_VERSION, _FLOAT, _INTS = 17, 8, 1, 7


def recogniser(side: int = SIDE, batch: str | int = "batch") -> bytes:
    """Return the file: pictures x (batch, 3, side, side) to embeddings y (batch, 12); a number fixes the batch."""
    half = side // 2
    window = _attribute("kernel_shape", half, half) + _attribute("strides", half, half)
    graph = _bytes(1, _node("AveragePool", "x", "pooled") + window) + _bytes(1, _node("Flatten", "pooled", "y"))
    graph += (
        _text(2, "recogniser")
        + _bytes(11, _value("x", batch, 3, side, side))
        + _bytes(12, _value("y", batch, EMBEDDING))
    )
    return _number(1, _IR_VERSION) + _bytes(8, _text(1, "") + _number(2, _OPSET)) + _bytes(7, graph)


def _node(kind: str, given: str, result: str) -> bytes:
    return _text(1, given) + _text(2, result) + _text(4, kind)


def _attribute(name: str, *values: int) -> bytes:
    return _bytes(5, _text(1, name) + b"".join(_number(8, value) for value in values) + _number(20, _INTS))


def _value(name: str, *shape: str | int) -> bytes:
    axes = (_text(2, axis) if isinstance(axis, str) else _number(1, axis) for axis in shape)
    tensor = _number(1, _FLOAT) + _bytes(2, b"".join(_bytes(1, axis) for axis in axes))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first; the eighth says that more follow."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
