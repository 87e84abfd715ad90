"""Files named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 1 << 20  # bytes read at once


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal. Raises ValueError naming a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ValueError(f"the file {path} could not be read: {error}") from error
    return digest.hexdigest()
