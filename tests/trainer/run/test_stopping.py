"""The first signal is a wish, the second one an order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from likeness.trainer.run.stopping import watched_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_becomes_a_wish_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with watched_signals() as wish:
        assert not wish
        os.kill(os.getpid(), number)
        assert wish and wish.signal_name == number.name
    assert signal.getsignal(number) is before


@pytest.fixture
def usual_interrupt() -> Iterator[None]:
    """What SIGINT does in Python, also where it was started in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_interrupt_ends_at_once(usual_interrupt):
    with pytest.raises(KeyboardInterrupt), watched_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
