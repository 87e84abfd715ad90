"""What stops a run with a sentence instead of a traceback."""

from __future__ import annotations

import errno

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class TrainingError(ValueError):
    """A run that cannot start or go on; the message says what was wrong and what to do."""


class DiskFullError(TrainingError):
    """A checkpoint that could not be written for want of space; nothing of it is left behind."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space; safetensors reports it as a text of its own."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    text = str(error)
    return any(f"os error {number}" in text for number in DISK_FULL) or "No space left" in text
