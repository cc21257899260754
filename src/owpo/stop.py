"""Stopping on request: Ctrl-C and SIGTERM are noted, and the run stops at the next point where nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from owpo.errors import Interrupted


def keep_interrupts() -> None:
    """Lose no Ctrl-C from now on: one that Python drops, because it came in a finalizer, is sent again."""
    sys.unraisablehook = _send_again


def _send_again(dropped: sys.UnraisableHookArgs) -> None:
    if dropped.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()  # after the finalizer
    else:
        sys.__unraisablehook__(dropped)


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
