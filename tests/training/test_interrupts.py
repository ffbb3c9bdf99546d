"""The first signal is a wish, the second is carried out."""

from __future__ import annotations

import signal
import threading

import pytest

from masklet.training import interrupts as module
from masklet.training.interrupts import interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_calls_stop_and_its_echo_does_nothing(number: int) -> None:
    calls: list[int] = []
    before = signal.getsignal(number)
    with interrupts(lambda: calls.append(1)) as found:
        assert found.received == 0
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert (calls, found.received) == ([1], number)
    assert signal.getsignal(number) is before


def test_a_second_signal_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ECHO_S", -1.0)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever had it before
    try:
        with pytest.raises(KeyboardInterrupt), interrupts(lambda: None):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_in_another_thread_nothing_is_handled() -> None:
    handlers: list[object] = []

    def inside() -> None:
        with interrupts(lambda: None):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
