"""Where insightface's model packs keep their networks: the three layouts that users have on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackNetwork:
    """A kind of network: its name for messages, its file in each pack, preferred first, and what to do without it."""

    kind: str
    files: Mapping[str, str]
    instead: str = ""


DETECTOR = PackNetwork(
    "face detector",
    {"buffalo_l": "det_10g.onnx", "antelopev2": "scrfd_10g_bnkps.onnx"},  # UniPortrait's published system's first
    ", or choose the bundled detector, which needs no download",
)
GENDER = PackNetwork(
    "gender network",
    {"buffalo_l": "genderage.onnx", "antelopev2": "genderage.onnx"},
    ", or choose the class word yourself",
)
RECOGNISER = PackNetwork("ArcFace recogniser", {"antelopev2": "glintr100.onnx"})


@dataclass(frozen=True)
class PackFile:
    """A network that was found: its pack, and the file or, for an unpacked zip's member, the archive and its name."""

    network: PackNetwork
    pack: str
    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The .onnx file's name and where it lies, for messages."""
        return f"{self.network.files[self.pack]} in {self.path if self.member else self.path.parent}"

    def read(self) -> bytes:
        """The content of the .onnx file. Raises ValueError naming a file that cannot be read."""
        try:
            if self.member is None:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"the {self.network.kind} in {self.path} could not be read: {error}") from error


def find_network(network: PackNetwork, folders: Sequence[Path]) -> PackFile | None:
    """The first network of this kind below these folders, such as ComfyUI's models/insightface.

    For each folder: <folder>, <folder>/models, with <pack>/, <pack>/<pack>/ or <pack>.zip in it.
    """
    for pack, file_name in network.files.items():
        for folder in _candidates(folders, pack):
            if (folder / file_name).is_file():
                return PackFile(network, pack, folder / file_name)
        for root in _roots(folders):
            member = _member(root / f"{pack}.zip", file_name)
            if member is not None:
                return PackFile(network, pack, root / f"{pack}.zip", member)
    return None


def missing_message(network: PackNetwork, folders: Sequence[Path]) -> str:
    """What to tell a user who needs a network of insightface and has none: file names and every folder searched."""
    files = " or ".join(f"{name} (pack {pack})" for pack, name in network.files.items())
    searched = [str(folder) for pack in network.files for folder in _candidates(folders, pack)]
    archives = [str(root / f"{pack}.zip") for pack in network.files for root in _roots(folders)]
    return (
        f"no insightface {network.kind} was found: looked for {files} in\n  "
        + "\n  ".join([*searched, *archives])
        + "\nThe packs are published at https://github.com/deepinsight/insightface (releases, v0.7) for non-commercial "
        f"research. Put one there{network.instead}"
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
