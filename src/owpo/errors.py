"""The three ways a command can end badly, each with its exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave is wrong; the message names it and the fix. Exit code 2."""


class RunFailed(RuntimeError):
    """A run could not go on; what it had is on disk. Exit code 1."""


class Interrupted(Exception):
    """A run was asked to stop and has saved its state. Exit code 75 (EX_TEMPFAIL: try again later)."""


@contextmanager
def input_errors(where: str = "") -> Iterator[None]:
    """Turn the ValueError of a check on the user's input into an InputError."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from error
