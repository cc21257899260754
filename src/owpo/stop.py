"""Stopping on request: Ctrl-C and SIGTERM are noted, and the run stops at the next point where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from owpo.errors import Interrupted


class StopSignal:
    """A flag that SIGINT and SIGTERM raise. A second signal ends the process in the ordinary way, at once."""

    def __init__(self) -> None:
        self.received: str | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note the signals inside the block, and put the previous handlers back after it.

        Only the main thread may handle signals; in another one nothing is noted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        self._previous = previous
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def check(self, *_: object) -> None:
        """
        Raises:
            Interrupted: a signal has come. Call this only where the state is whole.
        """
        if self.received is not None:
            raise Interrupted(self.received)
