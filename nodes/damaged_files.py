"""What is said of a model file that is not whole, beyond what the file itself tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..adapters.checkpoint import DamagedFileError
from .model_files import PULID_FILES, UNIID_FILES, UNIPORTRAIT_FILES


@contextmanager
def published_sizes() -> Iterator[None]:
    """Add the published size to the error for a damaged file that has a published name. Also a decorator."""
    try:
        yield
    except DamagedFileError as error:
        path = error.path.as_posix()
        for known in (*UNIPORTRAIT_FILES, *PULID_FILES, *UNIID_FILES):
            if path.endswith((known.name, *known.editions)):
                raise DamagedFileError(error.path, f"{error} The published one has {known.size}.") from error
        raise
