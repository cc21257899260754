"""Stopping on request: Ctrl-C and SIGTERM are noted, and the run stops at the next point where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from owpo.errors import Interrupted


class StopSignal:
    """A flag that SIGINT and SIGTERM raise. A second signal ends the process in the ordinary way, at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note the signals inside the block, and put the previous handlers back after it.

        Only the main thread may handle signals; in another one nothing is noted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._previous = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._put_back()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self, *_: object) -> None:
        """
        Raises:
            Interrupted: a signal has come. Call this only where the state is whole.
        """
        if self.received is not None:
            raise Interrupted(self.received)
