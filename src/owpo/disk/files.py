"""Writing that a kill cannot leave half done: temporary name, flush to disk, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from owpo.disk.trouble import writing
from owpo.errors import InputError


def fsync(path: Path) -> None:
    """Flush one file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(data: Any) -> str:
    """Data as a file of JSON: the same text for the same data."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Replace `path` by `data` as JSON; see `write_text`."""
    write_text(path, json_text(data))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a text; a reader sees the old file or the new one, nothing between.

    Raises:
        DiskFailed: the disk is full, read-only or failing; the old file stands.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            fsync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)  # a full disk should not stay full
            raise
        fsync(path.parent)


def read_json(path: Path, fix: str = "restore it") -> Any:
    """
    Args:
        fix: what to do about a damaged file, as the end of a sentence.

    Raises:
        InputError: the file is gone, cannot be read or is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); {fix}") from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `path` (replacing what is there) when the block ends without error.

    Raises:
        DiskFailed: the disk is full, read-only or failing, also where the block finds it so.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(path):
        try:
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.rglob("*")):
                fsync(file)
            fsync(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(path.parent)


def file_hash(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_names(folder: Path) -> set[str]:
    """Every file of a folder by its path inside it; hidden ones, which a system may leave there, are not counted."""
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    return {name for name in names if not any(part.startswith(".") for part in Path(name).parts)}


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file in `file_names`."""
    return {name: file_hash(folder / name) for name in sorted(file_names(folder))}


def damage(folder: Path, hashes: dict[str, str]) -> str | None:
    """What of the files in `hashes` is not as it was written, as a phrase; None where all of it is."""
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        try:
            actual = file_hash(file)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if actual != expected:
            return f"{name} has other bytes than were written"
    return None
