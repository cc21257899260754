"""Append-only JSONL files that can be cut back to a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from owpo.errors import InputError


class JSONLLog:
    """One JSON object a line. What is written after a checkpoint is cut off when the run resumes from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")

    def sync(self) -> int:
        """Flush to disk; the size in bytes, which a checkpoint records."""
        with self.path.open("a", encoding="utf-8") as stream:
            os.fsync(stream.fileno())
            return os.fstat(stream.fileno()).st_size

    def cut(self, size: int) -> None:
        """Drop what lies beyond `size` bytes.

        Raises:
            InputError: the file is shorter than that, so lines of the checkpoint's past are gone.
        """
        actual = self.path.stat().st_size if self.path.exists() else 0
        if actual < size:
            raise InputError(
                f"{self.path} holds {actual} bytes, but the checkpoint was made when it held {size}; restore the file"
            )
        if actual > size:
            os.truncate(self.path, size)

    def records(self) -> list[dict[str, Any]]:
        return read_jsonl_records(self.path)


def read_jsonl_records(path: Path) -> list[dict[str, Any]]:
    """Every line of a log; a last line without a newline, cut by a kill, is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
