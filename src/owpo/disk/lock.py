"""One process a run folder. The kernel drops the lock when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from owpo.errors import InputError


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds the folder's lock. Nothing is written."""
    try:
        with (folder / "run.lock").open("r", encoding="utf-8") as stream:
            with suppress(PermissionError):  # the holder is another user's
                os.kill(int(stream.read().strip() or 0) or os.getpid(), 0)
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ValueError):  # no lock, or its holder is gone
        return False
    return False


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        InputError: another process holds it, or nothing can be written into the folder.
    """
    try:
        stream = (folder / "run.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); make it writable, then do the same again"
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise InputError(
                f"{folder} is in use by process {stream.read().strip() or 'unknown'}; wait for it to end, or stop it"
            ) from error
        with suppress(OSError):  # on a full disk; the lock holds without the number that is told to others
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"{os.getpid()}\n".encode())
        yield
