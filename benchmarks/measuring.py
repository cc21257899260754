"""What the benchmarks share: figures with their spread, tables, and what a process and its children use.

Needs nothing but the standard library, since a peer's environment imports it too.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

_PROC = Path("/proc")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring, with the option every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be, the first to the left, the others to the right."""
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    shown = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([shown[0].rstrip(), "-" * len(shown[0]), *(line.rstrip() for line in shown[1:])])


def machine(packages: Sequence[str] = ("torch", "transformers")) -> str:
    """Processor, cores, versions and date, in a line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{processor()}, {os.cpu_count()} cores, {versions}, Python {platform.python_version()}, {date.today()}"


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = _PROC / "cpuinfo"
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_seconds() -> float:
    """Processor seconds of this process and of the living processes below it.

    Those below are counted where there is a /proc, in hundredths of a second.
    """
    ticks = sum(sum(_stat(pid)[11:13]) for pid in descendants())
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def peak_mib() -> float:
    """Largest resident set of this process so far, plus those of the living processes below it.

    Pages that processes share are counted once for each of them.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return own / 2**20 + sum(_peak_kib(pid) for pid in descendants()) / 1024


def descendants() -> list[int]:
    """Ids of the living processes below this one; none where there is no /proc."""
    below: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        stat = _stat(int(entry.name))
        if stat:
            below.setdefault(stat[1], []).append(int(entry.name))
    found, ahead = [], [os.getpid()]
    while ahead:
        children = below.get(ahead.pop(), [])
        found += children
        ahead += children
    return found


def _stat(pid: int) -> list[int]:
    """Fields of /proc/PID/stat after the name, the state as 0: [0, parent, ..., user ticks, system ticks, ...]."""
    try:
        after_name = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []
    return [0, *(int(field) for field in after_name[1:])]


def _peak_kib(pid: int) -> int:
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Pair by pair: what was measured one after the other is compared with each other."""
    return [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]


def medians(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every entry, over the records that have it (0 where one has not)."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: statistics.median(record.get(name, 0.0) for record in records) for name in names}
