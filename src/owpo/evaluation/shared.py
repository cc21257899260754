"""A folder where runs leave finished evaluations for each other: what is the same for several is sampled once.

`ID.jsonl` holds the samples of one problem set, as an evaluation folder has them; ID is made of all that decides them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from owpo.disk.trouble import writing
from owpo.errors import InputError
from owpo.evaluation.samples import read_samples


def shared_file(folder: Path, settings: dict[str, Any]) -> Path:
    """Where the samples lie of an evaluation with these settings, wherever its weights lie."""
    decisive = json.dumps({**settings, "model": None}, sort_keys=True)
    return folder / f"{hashlib.sha256(decisive.encode()).hexdigest()[:32]}.jsonl"


def take(shared: Path, own: Path) -> None:
    """Begin with the samples that another run has left, unless own ones are there; damaged ones are removed."""
    if own.exists() or not shared.is_file():
        return
    try:
        read_samples(shared)
    except InputError:
        shared.unlink(missing_ok=True)
        return
    _copy(shared, own)


def leave(own: Path, shared: Path) -> None:
    """Leave the samples of a finished evaluation, unless they are there already.

    Raises:
        DiskFailed: the disk is full, read-only or failing.
    """
    if shared.exists():
        return
    with writing(shared):
        shared.parent.mkdir(parents=True, exist_ok=True)
    _copy(own, shared)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all, though several do it at once."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with writing(target):
        temporary.write_bytes(source.read_bytes())
        temporary.replace(target)
