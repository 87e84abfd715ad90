"""What is known of a training picture beside its pixels: caption, faces, people. One JSON file per picture.

{"caption": str, "faces": [{"box": [x1, y1, x2, y2], "landmarks": [[x, y] * 5], "score": float, "person": str or null}],
"source": str, "attributes": {...}}; pixels of the stored picture, faces largest first. `attributes` is optional and
carried along for evaluation; training does not read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

_NUM_LANDMARKS = 5
_PICTURE_FIELDS = {"caption", "faces", "source", "attributes"}
_FACE_FIELDS = {"box", "landmarks", "score", "person"}


@dataclass(frozen=True)
class FaceRecord:
    """One face: box and five landmarks (left eye, right eye, nose, mouth corners, as seen) in pixels; its person."""

    box: Box
    landmarks: tuple[tuple[float, float], ...]
    score: float = 1.0
    person: str | None = None

    @property
    def points(self) -> np.ndarray:
        """The landmarks as (5, 2) float32 pixels, as `faces.alignment` takes them."""
        return np.array(self.landmarks, np.float32)


@dataclass(frozen=True)
class PictureRecord:
    """One picture: its caption, its faces with the largest first, and where it came from."""

    caption: str
    faces: tuple[FaceRecord, ...]
    source: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The record as the bytes of its JSON file; coordinates are rounded to a hundredth of a pixel."""
        faces = [
            {
                "box": [round(float(value), 2) for value in face.box],
                "landmarks": [[round(float(value), 2) for value in point] for point in face.landmarks],
                "score": round(float(face.score), 4),
                "person": face.person,
            }
            for face in self.faces
        ]
        content: dict[str, Any] = {"caption": self.caption, "faces": faces, "source": self.source}
        if self.attributes:
            content["attributes"] = dict(self.attributes)
        return json.dumps(content, ensure_ascii=False).encode("utf-8")


def parse_record(content: bytes, where: str) -> PictureRecord:
    """Read a picture's JSON; `where` names the file in messages.

    Raises ValueError naming the file and the field that is missing, unknown or of the wrong kind.
    """
    try:
        values = json.loads(content)
    except ValueError as error:  # also a UnicodeDecodeError
        raise ValueError(f"{where} is no valid JSON: {error}") from error
    _check_fields(values, _PICTURE_FIELDS, where, "")
    faces = values.get("faces")
    if not isinstance(faces, list):
        raise ValueError(f"{where}: the field `faces` must be a list of faces, got {_shown(faces)}")
    return PictureRecord(
        caption=_text(values, "caption", where),
        faces=tuple(_parse_face(face, where, f"faces[{number}]") for number, face in enumerate(faces)),
        source=_text(values, "source", where, ""),
        attributes=_attributes(values, where),
    )


def _parse_face(face: Any, where: str, field_name: str) -> FaceRecord:
    _check_fields(face, _FACE_FIELDS, where, field_name)
    box = _numbers(face.get("box"), 4, where, f"{field_name}.box")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(
            f"{where}: the field `{field_name}.box` must be x1, y1, x2, y2 with x1 < x2 and y1 < y2: {box}"
        )
    landmarks = face.get("landmarks")
    if not isinstance(landmarks, list) or len(landmarks) != _NUM_LANDMARKS:
        raise ValueError(f"{where}: the field `{field_name}.landmarks` must be five points [x, y], {_shown(landmarks)}")
    points = [_numbers(point, 2, where, f"{field_name}.landmarks[{number}]") for number, point in enumerate(landmarks)]
    (score,) = _numbers([face.get("score", 1.0)], 1, where, f"{field_name}.score")
    person = face.get("person")
    if person is not None and (not isinstance(person, str) or not person):
        raise ValueError(f"{where}: the field `{field_name}.person` must be a name or null, got {_shown(person)}")
    return FaceRecord((box[0], box[1], box[2], box[3]), tuple((x, y) for x, y in points), score, person)


def _check_fields(values: Any, known: set[str], where: str, prefix: str) -> None:
    name = f"the field `{prefix}`" if prefix else "the file"
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {name} must be a JSON object, got {_shown(values)}")
    if unknown := values.keys() - known:
        listed = ", ".join(f"`{prefix}.{key}`" if prefix else f"`{key}`" for key in sorted(unknown))
        raise ValueError(f"{where}: unknown field {listed}; the fields are {', '.join(sorted(known))}")


def _text(values: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = values.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{where}: the field `{key}` must be text, got {_shown(value)}")
    return value


def _attributes(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    attributes = values.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ValueError(f"{where}: the field `attributes` must be a JSON object, got {_shown(attributes)}")
    return attributes


def _numbers(value: Any, count: int, where: str, name: str) -> list[float]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) in (int, float) and math.isfinite(item) for item in value)
    ):
        raise ValueError(f"{where}: the field `{name}` must hold {count} finite number(s), got {_shown(value)}")
    return [float(item) for item in value]


def _shown(value: Any) -> str:
    """A value for a message: short, and plain about what is missing."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
