"""Folders that stand in two places: the pack inside custom_nodes, the repository under its import name."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def link_folder(target: Path, link: Path) -> None:
    """Make `link` lead to the folder `target`; an older link that leads elsewhere is replaced.

    Raises:
        FileExistsError: `link` is a real folder or file, which is left as it is.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(link):
        if link.resolve() == target.resolve():
            return
        if link.resolve() == link.absolute().parent.resolve() / link.name:
            raise FileExistsError(f"{link} is in the way: it is not a link. Move it away and try again.")
        _remove_link(link)
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target.resolve()), str(link))  # unlike a symbolic link it asks for no privilege
    else:
        link.symlink_to(target.resolve(), target_is_directory=True)


def _remove_link(link: Path) -> None:
    if link.is_symlink():
        link.unlink()
    else:
        link.rmdir()  # a Windows junction: removes the junction, never what it leads to
