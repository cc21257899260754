"""JSON that a run stands on: it carries a sha256 of its own text, and is believed only where that fits.

{
  "checkpoints": [...],
  "seal": "9f86d0..."     of the file's text without this entry
}

A line of a log can carry one too, where lines are read again one by one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from owpo.disk.files import json_text, read_json, write_text
from owpo.errors import InputError

_SEAL = "seal"
_RECORD_SEAL = 16  # hex digits: enough against accidents, and most of a short line would be seal otherwise


def write_sealed(path: Path, data: dict[str, Any]) -> None:
    """Replace `path` by `data` as sealed JSON; a reader sees the old file or the new one, nothing between."""
    assert _SEAL not in data
    write_text(path, _sealed_text(data))


def read_sealed(path: Path, fix: str = "restore it from a backup, or start a new run") -> dict[str, Any]:
    """What `write_sealed` wrote.

    Args:
        fix: what to do about a damaged file, as the end of a sentence.

    Raises:
        InputError: the file is gone, some byte of it is not as it was written, or it never had a seal.
    """
    data = read_json(path, fix)
    if not isinstance(data, dict) or _SEAL not in data:
        raise InputError(
            f"{path} has no seal: an earlier version of owpo wrote it (go on with that one), or it was edited; {fix}"
        )
    unsealed = {key: value for key, value in data.items() if key != _SEAL}
    if path.read_bytes() != _bytes(_sealed_text(unsealed)):
        raise InputError(f"{path} is damaged or was edited (its text does not fit its seal); {fix}")
    return unsealed


def sealed_record(record: dict[str, Any]) -> dict[str, Any]:
    """A log's record with a seal."""
    assert _SEAL not in record
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    return {**record, _SEAL: hashlib.sha256(_bytes(text)).hexdigest()[:_RECORD_SEAL]}


def unsealed_record(record: dict[str, Any]) -> dict[str, Any]:
    """What was given to `sealed_record`.

    Raises:
        ValueError: it is not what was written, or never had a seal.
    """
    unsealed = {key: value for key, value in record.items() if key != _SEAL}
    if sealed_record(unsealed) != record:
        raise ValueError("its text does not fit its seal" if _SEAL in record else "it has no seal")
    return unsealed


def _sealed_text(data: dict[str, Any]) -> str:
    return json_text({**data, _SEAL: hashlib.sha256(_bytes(json_text(data))).hexdigest()})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a damaged file may name what no text can hold
