"""Captions from a command that the user names: any captioning model with a command line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

_PLACE = "{file}"


class CaptionFailed(ValueError):
    """The captioner gave no caption for one picture."""


class Captioner:
    """Runs a command such as `caption-tool --short {file}`, without a shell; what it writes is the caption.

    Raises ValueError for a command without {file} and one that does not exist.
    """

    def __init__(self, command: str, seconds: float) -> None:
        self._parts = shlex.split(command)
        self._seconds = seconds
        if not any(_PLACE in part for part in self._parts):
            raise ValueError(f"the captioner command must hold {_PLACE} where the picture's path goes, got {command!r}")
        if shutil.which(self._parts[0]) is None:
            raise ValueError(f"the captioner {self._parts[0]!r} is no program that can be run")

    def caption(self, picture: Path) -> str:
        """The caption of a picture file, on one line. Raises CaptionFailed saying why there is none."""
        command = [part.replace(_PLACE, str(picture)) for part in self._parts]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._seconds)
        except subprocess.TimeoutExpired:
            raise CaptionFailed(f"the captioner took longer than {self._seconds:g} s") from None
        except OSError as error:
            raise CaptionFailed(f"the captioner could not be started: {error}") from error
        if done.returncode:
            complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise CaptionFailed(
                f"the captioner failed ({done.returncode}): {complaint[-1] if complaint else 'silently'}"
            )
        caption = " ".join(done.stdout.decode("utf-8", "replace").split())
        if not caption:
            raise CaptionFailed("the captioner wrote nothing")
        return caption
