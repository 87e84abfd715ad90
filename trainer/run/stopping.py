"""SIGTERM and SIGINT as a wish: the step is finished, the state saved, and the process ends cleanly."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("likeness.trainer")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopWish:
    """Whether somebody asked the run to end; `signal_name` says how."""

    def __init__(self) -> None:
        self.signal_name = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)


@contextmanager
def watched_signals() -> Iterator[StopWish]:
    """Turn the first signal into a wish; the second one of the kind does what it always does."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():  # signals can be caught there only
        yield wish
        return
    before = {int(number): signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        wish.signal_name = signal.Signals(number).name
        signal.signal(number, before[number])
        logger.warning("%s: finishing this step and saving; a second one ends the process at once", wish.signal_name)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Let processes that are started here ignore SIGINT: Ctrl-C reaches them too, and the last step needs them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
