"""The first signal is a wish, the second one an order."""

from __future__ import annotations

import os
import signal

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


def test_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt), watched_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
