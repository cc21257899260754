"""Seconds by phase, on the wall and of the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseClock:
    """Where the time of one piece of work goes; every second belongs to one phase.

    A phase inside another takes its seconds from it. `seconds` are the wall's, `cpu_seconds` this process's own
    over all its threads, both by phase and only of phases that are left.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._start = self._since = _now()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        outer = self._phase
        self._switch(phase)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, phase: str | None) -> None:
        now = _now()
        if self._phase is not None:
            for totals, end, start in zip((self.seconds, self.cpu_seconds), now, self._since, strict=True):
                totals[self._phase] = totals.get(self._phase, 0.0) + end - start
        self._phase, self._since = phase, now

    def total(self) -> tuple[float, float]:
        """Wall-clock and processor seconds since the clock was made, whatever the phase."""
        now = _now()
        return now[0] - self._start[0], now[1] - self._start[1]


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
