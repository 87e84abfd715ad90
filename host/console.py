"""The launcher's own words; what the started programs print goes past it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str, end: str = "\n") -> None:
    """Write to standard output at once, so that the order among started programs stays right."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


@contextmanager
def step(number: int, total: int, title: str) -> Iterator[None]:
    """Announce a step of a set-up, and its duration when it is done."""
    say(f"[{number}/{total}] {title} ...", end=" ")
    start = time.monotonic()
    try:
        yield
    except BaseException:
        say("")
        raise
    say(f"{time.monotonic() - start:.0f} s")
