"""A disk that is full, read-only or failing: recognised, and told in a sentence."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from owpo.errors import RunFailed

_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "give this user access",
    errno.EPERM: "give this user access",
    errno.EIO: "check the disk and its connection",
    errno.ESTALE: "mount the file system again",
    errno.ENOENT: "put the folder back to where it was",
}
# Libraries written in Rust tell the number in their text only: safetensors in an error of its own, tokenizers in a bare
# Exception. Nobody else's text is searched, since a model may have written it.
_RUST = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")
_RUST_ERRORS = ("SafetensorError", "Exception")


class DiskFailed(RunFailed):
    """Something could not be written; what stood there before still stands.

    cure   what its owner can do, as an imperative without an end
    """

    def __init__(self, where: object, number: int) -> None:
        super().__init__(f"trouble with the disk at {where}: {os.strerror(number)}")
        self.cure = _CURES[number]


def disk_trouble(error: BaseException, where: object = None) -> DiskFailed | None:
    """An error as trouble with the disk; None where it is something else.

    Args:
        where: what was being written; None: what the error names.
    """
    if isinstance(error, DiskFailed):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ in _RUST_ERRORS and (told := _RUST.search(str(error))):
        number = int(told[1] or told[2])
    if number not in _CURES or (
        number == errno.ENOENT and where is None
    ):  # not every missing file is the disk's fault
        return None
    return DiskFailed(where or getattr(error, "filename", None) or "a file", number)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """
    Raises:
        DiskFailed: in place of what the disk's trouble raises in the block.
    """
    try:
        yield
    except Exception as error:
        failed = disk_trouble(error, path)
        if failed is None or failed is error:
            raise
        raise failed from error
