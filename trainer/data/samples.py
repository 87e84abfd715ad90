"""One training picture with all that belongs to it, as files: names of the members, and making them from arrays.

A sample `<key>` has the members `<key>.png|jpg|jpeg|webp` (the picture), `<key>.json` (`records`), `<key>.face{k}.png`
(aligned 224 px crop of face k), `<key>.other{j}.png` (crops of other photographs of the same only person),
`<key>.mask.png` (8-bit label map: 0 nobody, k + 1 face k) and `<key>.cache.safetensors` (`cache_file`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...faces.alignment import align
from ...faces.pictures import open_picture
from .records import PictureRecord

CROP_SIZE = 224  # spec, section 1, step 6
PICTURE_TYPES = ("png", "jpg", "jpeg", "webp")
RECORD_MEMBER = "json"
MASK_MEMBER = "mask.png"
CACHE_MEMBER = "cache.safetensors"

_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_LONGEST_KEY = 80  # tar names of the plain kind hold 100 bytes
_ORIENTATION = 0x0112  # EXIF tag; from 5 on width and height are swapped
_FIRST_TURNED = 5


def face_member(number: int) -> str:
    return f"face{number}.png"


def other_member(number: int) -> str:
    return f"other{number}.png"


@dataclass(frozen=True)
class StoredSample:
    """A sample as encoded files.

    picture: the bytes of a file of type `picture_type`. crops: PNG files, one per face of the record. others: PNG
    files. mask: a PNG file. cache: a safetensors file.
    """

    key: str
    record: PictureRecord
    picture: bytes
    picture_type: str
    crops: tuple[bytes, ...]
    others: tuple[bytes, ...] = ()
    mask: bytes | None = None
    cache: bytes | None = None

    def files(self) -> dict[str, bytes]:
        """The members by name without the key.

        Raises ValueError for a key that other tools would split or refuse, an unknown picture type, and crops that are
        not one per face.
        """
        if not _KEY.fullmatch(self.key) or len(self.key) > _LONGEST_KEY:
            raise ValueError(
                f"the key {self.key!r} of a sample must be letters, digits, - and _ (folders with /), "
                f"at most {_LONGEST_KEY} long"
            )
        if self.picture_type not in PICTURE_TYPES:
            raise ValueError(f"sample {self.key}: pictures are stored as {', '.join(PICTURE_TYPES)}")
        if len(self.crops) != len(self.record.faces):
            raise ValueError(f"sample {self.key} has {len(self.record.faces)} faces but {len(self.crops)} crops")
        files = {self.picture_type: self.picture, RECORD_MEMBER: self.record.to_json()}
        files |= {face_member(number): crop for number, crop in enumerate(self.crops)}
        files |= {other_member(number): crop for number, crop in enumerate(self.others)}
        if self.mask is not None:
            files[MASK_MEMBER] = self.mask
        if self.cache is not None:
            files[CACHE_MEMBER] = self.cache
        return files


def make_sample(
    key: str,
    picture: np.ndarray,
    record: PictureRecord,
    crops: Sequence[np.ndarray] | None = None,
    others: Sequence[np.ndarray] = (),
    mask: np.ndarray | None = None,
) -> StoredSample:
    """Encode a sample from arrays; the picture becomes a PNG file.

    picture: (H, W, 3) uint8 RGB. crops, others: (224, 224, 3) uint8 RGB each; without crops they are aligned from the
    picture. mask: (H, W) uint8 labels.
    Raises ValueError for a mask of another size than the picture.
    """
    if mask is not None and mask.shape != picture.shape[:2]:
        raise ValueError(f"sample {key}: the mask is {mask.shape}, the picture {picture.shape[:2]}")
    if crops is None:
        crops = [align(picture, face.points, CROP_SIZE) for face in record.faces]
    return StoredSample(
        key,
        record,
        encode_png(picture),
        "png",
        tuple(encode_png(crop) for crop in crops),
        tuple(encode_png(crop) for crop in others),
        None if mask is None else encode_png(mask),
    )


def encode_png(image: np.ndarray) -> bytes:
    """A picture (H, W, 3) or label map (H, W), uint8, as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", compress_level=1)
    return file.getvalue()


def decode_picture(content: bytes, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture file's bytes, turned as EXIF says.

    Raises ValueError naming the place for bytes that are no whole picture.
    """
    file: Any = io.BytesIO(content)
    try:
        return open_picture(file)
    except ValueError as error:
        known = not isinstance(error.__cause__, UnidentifiedImageError)  # whose text holds an address in memory
        detail = error.__cause__ if known else "of no known format"
        raise ValueError(f"{where}: the picture is damaged or none ({detail})") from error


def decode_labels(content: bytes, where: str) -> np.ndarray:
    """(H, W) uint8 of a label map's PNG bytes. Raises ValueError naming the place for anything but 8-bit labels."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            file.load()
            if file.mode not in ("L", "P"):
                raise ValueError(f"{where}: a mask must be an 8-bit map of labels, not a picture of mode {file.mode}")
            return np.array(file)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where}: the mask is damaged ({error})") from error


def storable_type(content: bytes) -> str | None:
    """The member type under which a picture file can be stored as it is; None when it must be encoded anew.

    That is so for other formats, and for pictures that an EXIF orientation turns, which not every reader obeys.
    """
    with Image.open(io.BytesIO(content)) as file:
        turned = file.getexif().get(_ORIENTATION, 1) != 1
        # MPO: the JPEG files of some phones, with a second picture behind the first.
        found = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}.get(file.format or "")
    return None if turned else found


def encode_like(image: np.ndarray, content: bytes) -> tuple[bytes, str]:
    """A picture (H, W, 3) uint8 encoded anew: as JPEG where the old file was lossy, else as PNG; bytes and type."""
    with Image.open(io.BytesIO(content)) as old:
        lossy = old.format in ("JPEG", "MPO", "WEBP")
    if not lossy:
        return encode_png(image), "png"
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=95, subsampling=0)
    return file.getvalue(), "jpg"


def picture_size(content: bytes, where: str) -> tuple[int, int]:
    """Width and height of a picture file's bytes after turning as EXIF says, from its header alone."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            width, height = file.size
            has_exif = file.format != "PNG" or "exif" in file.info  # asking a PNG without it would decode the picture
            turned = has_exif and file.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: the picture is damaged or none ({error})") from error
    return (height, width) if turned else (width, height)
