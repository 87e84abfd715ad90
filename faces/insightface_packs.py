"""Where an insightface model pack keeps its face detector: the three layouts that users have on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DETECTOR_FILES = {"buffalo_l": "det_10g.onnx", "antelopev2": "scrfd_10g_bnkps.onnx"}  # the published system's first


@dataclass(frozen=True)
class PackDetector:
    """A detector that was found: the pack, and the file or, for an unpacked zip's member, `archive` and its name."""

    pack: str
    path: Path
    member: str | None = None

    def read(self) -> bytes:
        """The content of the .onnx file. Raises ValueError naming a file that cannot be read."""
        try:
            if self.member is None:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"the face detector in {self.path} could not be read: {error}") from error


def find_detector(folders: Sequence[Path]) -> PackDetector | None:
    """The first detector of a known pack below these folders, such as ComfyUI's models/insightface.

    For each folder: <folder>, <folder>/models, with <pack>/, <pack>/<pack>/ or <pack>.zip in it.
    """
    for pack, file_name in DETECTOR_FILES.items():
        for folder in _candidates(folders, pack):
            if (folder / file_name).is_file():
                return PackDetector(pack, folder / file_name)
        for root in _roots(folders):
            member = _member(root / f"{pack}.zip", file_name)
            if member is not None:
                return PackDetector(pack, root / f"{pack}.zip", member)
    return None


def missing_message(folders: Sequence[Path]) -> str:
    """What to tell a user who asked for an insightface detector and has none: file names and every folder searched."""
    files = " or ".join(f"{name} (pack {pack})" for pack, name in DETECTOR_FILES.items())
    searched = [str(folder) for pack in DETECTOR_FILES for folder in _candidates(folders, pack)]
    archives = [str(root / f"{pack}.zip") for pack in DETECTOR_FILES for root in _roots(folders)]
    return (
        f"no insightface face detector was found: looked for {files} in\n  "
        + "\n  ".join([*searched, *archives])
        + "\nThe packs are published at https://github.com/deepinsight/insightface (releases, v0.7) for non-commercial "
        "research. Put one there, or choose the bundled detector, which needs no download"
    )


def _roots(folders: Sequence[Path]) -> list[Path]:
    return [root for folder in map(Path, folders) for root in (folder / "models", folder)]


def _candidates(folders: Sequence[Path], pack: str) -> Iterator[Path]:
    for root in _roots(folders):
        yield root / pack
        yield root / pack / pack
    yield from map(Path, folders)


def _member(archive: Path, file_name: str) -> str | None:
    if not archive.is_file():
        return None
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive} is damaged: {error}. Download it again or unpack it yourself") from error
    return next((name for name in names if name.rsplit("/", 1)[-1] == file_name), None)
