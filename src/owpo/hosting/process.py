"""A host's process: started, watched, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from owpo.errors import RunFailed
from owpo.stop import StopSignal

_LOOK = 0.5  # seconds between two looks
_PATIENCE = 60.0  # seconds that a host has to end once it is asked to
_TOLD = 15  # lines of the log in an error

# What such a process runs before anything else: it is asked to end when the process that started it has died,
# in whatever way (Linux: PR_SET_PDEATHSIG).
_WITH_PARENT = """
import ctypes, os, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != {parent}:
        sys.exit("what started this has ended")
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def with_parent(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a module in a Python process of its own, asked to end (SIGTERM) when this one dies."""
    return [sys.executable, "-c", _WITH_PARENT.format(parent=os.getpid()), module, *arguments]


def run_host(
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    stop: StopSignal,
    on_look: Callable[[], None],
) -> None:
    """Run a module in a Python process of its own to its end, its output going to the end of a file.

    Args:
        on_look: called every half second, and once more at the end.

    Raises:
        Interrupted: a stop was asked for; the process has ended, and goes on from its last checkpoint when run again.
        RunFailed: it ended with an error; with the last lines of its output.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            with_parent(module, arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            stop.check()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
            on_look()
    finally:
        _end(process)
    on_look()
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TOLD:]
        told = "\n".join(f"  {line[:300]}" for line in lines)
        raise RunFailed(
            f"{module} ended with code {process.returncode}; its last lines, of {log}:\n{told}\nWhat it had saved "
            "stands; mend the cause, then go on by owpo resume"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
