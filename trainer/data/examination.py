"""One picture of a user, looked at: taken with its faces, or refused with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...faces.alignment import align
from ...faces.detection import find_faces, load_detector
from .captioner import Captioner, CaptionFailed
from .duplicates import difference_hash
from .records import Box, FaceRecord, PictureRecord
from .samples import CROP_SIZE, StoredSample, decode_picture, encode_like, encode_png, storable_type
from .sources import Sidecar, Source, look_up, read_sidecar, read_table


@dataclass(frozen=True)
class PrepareSettings:
    """What `prepare` takes in and what it refuses; the numbers are those of spec 11, "Filters", except where said.

    faces: fewest and most of a picture. min_score: detections below it are ignored. min_face: short side of a face's
    box in pixels; min_face_share: that side over the picture's short side. min_side: short side of a picture; max_side:
    pictures with a longer side are stored smaller (ours). duplicate_distance: bits in which two pictures' hashes may
    differ and still be near-duplicates (ours; see `duplicates`), below 0 keeps them all. others: crops of other
    photographs kept for a labelled person's picture.
    """

    inputs: tuple[Path, ...]
    out: Path
    detector: str = "auto"
    detector_folders: tuple[Path, ...] = ()
    trust_faces: bool = False
    faces: tuple[int, int] = (1, 1)
    min_score: float = 0.7
    min_face: float = 64
    min_face_share: float = 0.05
    min_side: int = 512
    max_side: int = 2048
    duplicate_distance: int = 10
    captioner: str | None = None
    captioner_seconds: float = 120
    allow_empty_captions: bool = False
    labels: Path | None = None
    aesthetic_scores: Path | None = None
    min_aesthetic: float = 5.0
    others: int = 4
    samples_per_shard: int = 1000
    workers: int = 1


@dataclass(frozen=True)
class Taken:
    """A picture that goes into the set; its key is given later. hash: see `duplicates`."""

    name: str
    sample: StoredSample
    hash: int


@dataclass(frozen=True)
class Refusal:
    """A picture that does not, why in a few words that can be counted, and details."""

    name: str
    reason: str
    detail: str


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Examiner:
    """Looks at pictures one by one. Raises ValueError for a detector, a captioner or a table that cannot be used."""

    def __init__(self, settings: PrepareSettings) -> None:
        self._settings = settings
        self._detector = None if settings.trust_faces else load_detector(settings.detector, settings.detector_folders)
        command = settings.captioner
        self._captioner = Captioner(command, settings.captioner_seconds) if command else None
        self._people = read_table(settings.labels, "person") if settings.labels else {}
        self._scores = read_table(settings.aesthetic_scores, "score") if settings.aesthetic_scores else None

    @property
    def detector(self) -> str:
        """Who finds the faces."""
        return "given faces" if self._detector is None else self._detector.name

    def examine(self, source: Source) -> Taken | Refusal:
        """Look at one picture; whatever is wrong with it or the files beside it becomes a refusal."""
        try:
            return self._take(source)
        except _Refused as refused:
            return Refusal(source.name, refused.reason, refused.detail)

    def _take(self, source: Source) -> Taken:
        content, picture = _read(source.path)
        self._check_picture(source, picture)
        sidecar = self._sidecar(source, picture)
        faces, labels = self._faces(picture, sidecar)
        try:
            crops = tuple(encode_png(align(picture, face.points, CROP_SIZE)) for face in faces)
        except ValueError as error:
            raise _Refused("face cannot be aligned", str(error)) from error
        person = look_up(self._people, source) or sidecar.person
        if person is not None and len(faces) == 1:
            faces = [replace(faces[0], person=person)]
        attributes = sidecar.record.attributes if sidecar.record else {}
        record = PictureRecord(self._caption(source, sidecar), tuple(faces), source.name, attributes)
        mask = None if sidecar.mask is None else renumbered(sidecar.mask, [face.box for face in faces], labels)
        return Taken(source.name, self._pack(content, picture, record, crops, mask), difference_hash(picture))

    def _check_picture(self, source: Source, picture: np.ndarray) -> None:
        side = min(picture.shape[:2])
        if side < self._settings.min_side:
            raise _Refused("picture too small", f"short side {side} px, least {self._settings.min_side}")
        if self._scores is None:
            return
        try:
            score = float(look_up(self._scores, source) or "")
        except ValueError:
            raise _Refused("no aesthetic score", "the table of scores has no number for it") from None
        if score < self._settings.min_aesthetic:
            raise _Refused("aesthetic score too low", f"{score:g}, least {self._settings.min_aesthetic:g}")

    def _sidecar(self, source: Source, picture: np.ndarray) -> Sidecar:
        try:
            sidecar = read_sidecar(source.path, self._settings.trust_faces)
        except (ValueError, OSError) as error:
            raise _Refused("faulty file beside it", str(error)) from error
        if sidecar.mask is not None and sidecar.mask.shape != picture.shape[:2]:
            raise _Refused("faulty file beside it", f"the mask has the shape {sidecar.mask.shape}, not the picture's")
        return sidecar

    def _faces(self, picture: np.ndarray, sidecar: Sidecar) -> tuple[list[FaceRecord], list[int] | None]:
        """Faces that pass all filters, largest first, and their labels in the mask where those are known."""
        if sidecar.record is not None:
            found = list(sidecar.record.faces)
        elif self._detector is not None:
            detected = find_faces([picture], self._detector)
            found = [
                FaceRecord(face.box, tuple((float(x), float(y)) for x, y in face.landmarks), face.score)
                for face in detected
            ]
        clear = [(face, label) for label, face in enumerate(found, start=1) if face.score >= self._settings.min_score]
        clear.sort(key=lambda pair: -_area(pair[0].box))
        self._check_faces([face for face, _ in clear], len(found), picture)
        return [face for face, _ in clear], None if sidecar.record is None else [label for _, label in clear]

    def _check_faces(self, faces: Sequence[FaceRecord], found: int, picture: np.ndarray) -> None:
        settings, (fewest, most) = self._settings, self._settings.faces
        if not found:
            raise _Refused("no face", "no face was found")
        if not faces:
            raise _Refused("face score too low", f"{found} found, none with a score of {settings.min_score:g}")
        if not fewest <= len(faces) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise _Refused("wrong number of faces", f"{len(faces)} faces, wanted are {wanted}")
        least = max(settings.min_face, settings.min_face_share * min(picture.shape[:2]))
        side = min(min(face.box[2] - face.box[0], face.box[3] - face.box[1]) for face in faces)
        if side < least:
            raise _Refused("face too small", f"short side {side:.0f} px, least {least:.0f}")

    def _caption(self, source: Source, sidecar: Sidecar) -> str:
        caption, detail = sidecar.caption, "neither a .txt nor a .json file beside it has one"
        if not caption and self._captioner is not None:
            try:
                caption = self._captioner.caption(source.path.resolve())
            except CaptionFailed as error:
                detail = str(error)
        if not caption and not self._settings.allow_empty_captions:
            raise _Refused("captioner failed" if self._captioner else "no caption", detail)
        return caption or ""

    def _pack(
        self, content: bytes, picture: np.ndarray, record: PictureRecord, crops: tuple[bytes, ...],
        mask: np.ndarray | None,
    ) -> StoredSample:  # fmt: skip
        """The sample, without a key, in a picture no larger than allowed; boxes and landmarks follow its size."""
        height, width = picture.shape[:2]
        scale = min(self._settings.max_side / max(width, height), 1.0)
        picture_type = storable_type(content)
        if scale < 1:
            size = (round(width * scale), round(height * scale))
            picture = np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
            record = replace(
                record, faces=tuple(_scaled(face, size[0] / width, size[1] / height) for face in record.faces)
            )
            mask = None if mask is None else np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        if scale < 1 or picture_type is None:
            content, picture_type = encode_like(picture, content)
        return StoredSample("", record, content, picture_type, crops, mask=None if mask is None else encode_png(mask))


def renumbered(labels: np.ndarray, boxes: Sequence[Box], known: Sequence[int] | None) -> np.ndarray:
    """A label map (H, W) uint8 with k + 1 where face k is, 0 elsewhere.

    known: the old labels of the faces. Without it, each face takes the label that fills most of its box; where two want
    the same one, the face that holds more of it does.
    """
    if known is None:
        known = _best_labels(labels, boxes)
    table = np.zeros(256, np.uint8)
    for number, label in enumerate(known, start=1):
        table[label] = number if label else 0
    return table[labels]


def _best_labels(labels: np.ndarray, boxes: Sequence[Box]) -> list[int]:
    height, width = labels.shape
    claims = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        rows = slice(max(round(y1), 0), min(round(y2), height))
        columns = slice(max(round(x1), 0), min(round(x2), width))
        counts = np.bincount(labels[rows, columns].ravel(), minlength=256)
        claims += [(int(counts[label]), number, label) for label in range(1, 256) if counts[label]]
    best = [0] * len(boxes)
    for _, number, label in sorted(claims, key=lambda claim: (-claim[0], claim[1])):
        if not best[number] and label not in best:
            best[number] = label
    return best


def _read(path: Path) -> tuple[bytes, np.ndarray]:
    if not path.is_file():
        raise _Refused("unreadable picture", "it is no file, or a link that leads nowhere")
    try:
        content = path.read_bytes()
        return content, decode_picture(content, path.name)
    except (OSError, ValueError, MemoryError) as error:
        raise _Refused("unreadable picture", str(error)) from error


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _scaled(face: FaceRecord, x_scale: float, y_scale: float) -> FaceRecord:
    x1, y1, x2, y2 = face.box
    return replace(
        face,
        box=(x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale),
        landmarks=tuple((x * x_scale, y * y_scale) for x, y in face.landmarks),
    )
