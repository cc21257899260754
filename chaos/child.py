"""The command line in a process of its own, which can be stopped at a place that we know, and killed there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from chaos.phases import BY_NAME, IMPORTS, Stack

_HOOK = Path(__file__).parent / "hook"
_STOP_LIMIT_S = 20.0
_RUN_LIMIT_S = 300.0
_LOOK_S = 0.0002
_IMPORTING_S = 0.02

_alive: set[subprocess.Popen[bytes]] = set()


def kill_all() -> None:
    """End what is still there of the processes that were started here."""
    for process in list(_alive):
        process.kill()


class LookFailed(Exception):
    """A process died of our looking at its stack, once in some ten thousand times: the try has to be made again."""


class Child:
    """`python -m owpo WORDS` in the folder `cwd`."""

    def __init__(self, words: list[str], cwd: Path, notes: Path | None = None, **settings: str) -> None:
        """
        Args:
            notes: folder for what it prints (console.txt) and for its stacks; None: cwd.
            settings: environment variables of the hook (`chaos/hook/sitecustomize.py`).
        """
        self.cwd = cwd
        self.words = words
        self.console = (notes or cwd) / "console.txt"
        self._stacks = (notes or cwd) / "stacks"
        path = [str(_HOOK), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in path),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "1000",  # no warning is broken over two lines
            "CHAOS_CASE": str(cwd),
            "CHAOS_STACKS": str(self._stacks),
            **settings,
        }
        with self.console.open("ab") as console:
            console.write(f"$ owpo {' '.join(words)}\n".encode())
            console.flush()
            self._printed_from = console.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "owpo", *words],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                process_group=0,  # a process whose group has no parent in its session cannot be stopped by SIGTSTP
            )
        _alive.add(self.process)
        self.started = time.monotonic()
        self._stack_read = 0

    def stop(self) -> Stack | None:
        """Halt it where it is; None where it has ended.

        Raises:
            LookFailed: it died of this.
        """
        if not self._send(signal.SIGTSTP):
            return None
        limit = time.monotonic() + _STOP_LIMIT_S
        while (state := self._state()) is None:
            assert time.monotonic() < limit, f"{self.words} in {self.cwd} does not stop"
            time.sleep(_LOOK_S)
        if state != os.CLD_STOPPED:
            if self.wait() == -signal.SIGSEGV:
                raise LookFailed(f"{self.words} in {self.cwd}")
            return None
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        return self._new_stack()

    def _state(self) -> int | None:
        """Whether it has stopped or ended since we looked; None: neither."""
        options = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        found = os.waitid(os.P_PID, self.process.pid, options)
        return found.si_code if found is not None else None

    def _new_stack(self) -> Stack:
        file = Path(f"{self._stacks}.{self.process.pid}")
        text = file.read_bytes()[self._stack_read :] if file.exists() else b""
        self._stack_read += len(text)
        return Stack.read(text.decode(errors="replace"))

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self.wait()

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or as a terminal does to its whole group."""
        if self.process.poll() is None:
            os.kill(-self.process.pid if group else self.process.pid, number)

    def _send(self, number: int) -> bool:
        """Whether it was there to get the signal."""
        self.process.send_signal(number)
        return self.process.returncode is None

    def wait(self) -> int:
        """Its exit code; one that does not end at all is killed, and says so."""
        try:
            self.process.wait(_RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            with self.console.open("ab") as console:
                console.write(b"(killed: it did not end)\n")
        _alive.discard(self.process)
        return self.process.returncode

    def printed(self) -> str:
        with self.console.open("rb") as console:
            console.seek(self._printed_from)
            return console.read().decode(errors="replace")

    def hunt(self, name: str, chance: random.Random) -> Stack | None:
        """Stop it at a random place inside a phase; None where it ended before one was met."""
        seconds, seen = BY_NAME[name].seconds, False
        while (stack := self.stop()) is not None:
            if stack.phase == name and seen:
                return stack
            if stack.phase == name:  # this is its beginning, mostly: look again, later
                seen, wait_s = True, chance.uniform(0, seconds)
            elif stack.phase == IMPORTS:
                wait_s = _IMPORTING_S
            else:
                wait_s = chance.uniform(0.0005, min(0.01, seconds))
            self.go_on()
            time.sleep(wait_s)
        return None


def left_behind(cwd: Path, patience_s: float = 15.0) -> list[int]:
    """Processes that a child in `cwd` has started and that outlive it."""
    limit = time.monotonic() + patience_s
    while (found := processes_of(cwd)) and time.monotonic() < limit:
        time.sleep(0.05)
    return found


def processes_of(cwd: Path) -> list[int]:
    """Every process of the child that works there."""
    mark = f"CHAOS_CASE={cwd}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found
