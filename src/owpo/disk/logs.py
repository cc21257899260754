"""Append-only JSONL files that can be cut back to a checkpoint, plain or compressed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from owpo.disk.files import write_text
from owpo.disk.trouble import writing
from owpo.errors import InputError

_PIECE = 1 << 20  # bytes
_TAIL = 1 << 20  # bytes at the end of a log, where its last lines are looked for
_COMPRESSED = ".gz"


class LogMark(NamedTuple):
    """How far a log had come: its size in bytes, and the sha256 of all of them."""

    size: int = 0
    sha256: str = hashlib.sha256().hexdigest()


class JSONLLog:
    """One JSON object a line. What is written after a checkpoint is cut off when the run resumes from it.

    Where the path ends in .gz every append is a gzip member of its own, and the file what `zcat` and pandas read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash_from_start()

    def append(self, *records: dict[str, Any]) -> None:
        """
        Raises:
            DiskFailed: the disk is full, read-only or failing; no half line is left where it can be helped.
        """
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        data = lines.encode("utf-8")
        if self.path.suffix == _COMPRESSED:
            data = gzip.compress(data, mtime=0)  # the same bytes whenever the run is repeated
        with writing(self.path):
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                with self.path.open("ab") as stream:
                    stream.write(data)
            except OSError:
                with suppress(OSError):
                    os.truncate(self.path, size)
                raise

    def replace(self, *records: dict[str, Any]) -> None:
        """Put these in the place of all lines; a reader sees the old file or the new one, nothing between."""
        assert self.path.suffix != _COMPRESSED
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write_text(self.path, "".join(lines))
        self._hash_from_start()

    def sync(self) -> LogMark:
        """Flush to disk; how far the log has come, which a checkpoint records."""
        with writing(self.path), self.path.open("a+b") as stream:
            os.fsync(stream.fileno())
            self._hash_rest(stream, os.fstat(stream.fileno()).st_size)
        return LogMark(self._hashed, self._hash.hexdigest())

    def check(self, mark: LogMark) -> None:
        """
        Raises:
            InputError: the file is shorter than the mark or its bytes up to there are others, so the checkpoint's past
                is not what it was.
        """
        actual = self.path.stat().st_size if self.path.exists() else 0
        if actual < mark.size:
            raise InputError(
                f"{self.path} holds {actual} bytes, but the checkpoint was made when it held {mark.size}; restore the "
                "file from a backup"
            )
        self._hash_from_start()
        if mark.size:
            with self.path.open("rb") as stream:
                self._hash_rest(stream, mark.size)
        if self._hash.hexdigest() != mark.sha256:
            raise InputError(
                f"{self.path} is damaged or was edited: its first {mark.size} bytes are not those that it held when "
                "the checkpoint was made; restore the file from a backup"
            )

    def cut(self, mark: LogMark) -> None:
        """Drop what lies beyond a mark that was checked."""
        assert (self._hashed, self._hash.hexdigest()) == mark
        if self.path.exists():
            with writing(self.path):
                os.truncate(self.path, mark.size)

    def keep(self, num_lines: int) -> None:
        """Drop what lies beyond the first `num_lines` lines."""
        assert self.path.suffix != _COMPRESSED
        if self.path.exists():
            lines = self.path.read_bytes().split(b"\n")[:num_lines]
            with writing(self.path):
                os.truncate(self.path, sum(len(line) + 1 for line in lines))
            self._hash_from_start()

    def _hash_from_start(self) -> None:
        """The hash is kept of the first so many bytes, so that a checkpoint costs only what is new."""
        self._hash, self._hashed = hashlib.sha256(), 0

    def _hash_rest(self, stream: BinaryIO, size: int) -> None:
        """Go on with the hash to byte `size`."""
        stream.seek(self._hashed)
        while self._hashed < size:
            piece = stream.read(min(_PIECE, size - self._hashed))
            assert piece, "the file was measured a moment ago"
            self._hash.update(piece)
            self._hashed += len(piece)

    def records(self) -> list[dict[str, Any]]:
        return read_jsonl_records(self.path)

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last lines, as many of `count` as its last MiB holds; the log may be long, and may be growing."""
        assert self.path.suffix != _COMPRESSED
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            start = max(0, os.fstat(stream.fileno()).st_size - _TAIL)
            stream.seek(start)
            lines = stream.read().split(b"\n")[1 if start else 0 : -1]
        return _records(self.path, lines[max(0, len(lines) - count) :])


def read_jsonl_records(path: Path) -> list[dict[str, Any]]:
    """Every line of a log; what a kill left at its end, a line or a member without an end, is left out."""
    text = path.read_bytes() if path.exists() else b""
    if path.suffix == _COMPRESSED:
        try:
            text = b"".join(_members(text))
        except zlib.error as error:
            raise _damaged(path, error) from error
    # Not splitlines: what a model writes may hold the other characters that it takes for the end of a line.
    return _records(path, text.split(b"\n")[:-1])


def _records(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}); restore it")


def _members(data: bytes) -> Iterator[bytes]:
    """What each gzip member holds; a last one that has no end is left out."""
    while data:
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        text = member.decompress(data)
        if not member.eof:
            return
        yield text
        data = member.unused_data
