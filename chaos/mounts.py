"""Small disks and read-only folders, as an ordinary user: the whole driver runs in a user and mount namespace.

What is mounted there is seen by it and its children alone, and is gone when they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INSIDE = "CHAOS_INSIDE"
_UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def enter_namespace() -> None:
    """Start this program again inside a namespace of its own, where the system allows that."""
    if _INSIDE in os.environ:
        return
    try:
        allowed = subprocess.run(
            [*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:  # no such program
        return
    if allowed.returncode == 0:
        os.environ[_INSIDE] = "1"
        os.execvp(_UNSHARE[0], [*_UNSHARE, sys.executable, "-m", "chaos", *sys.argv[1:]])


def can_mount() -> bool:
    return _INSIDE in os.environ


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """An empty folder on a disk of `size` bytes."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be written, also by processes that have it open as their working directory.

    A second, read-only mount over the folder: paths lead into it from now on, files that are open stay as they are.
    """
    _run("mount", "--bind", str(folder), str(folder))
    _run("mount", "-o", "remount,bind,ro", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
