"""What a run folder holds, in a form in which two of them can be compared: every byte, but for what is stated here.

run.lock                  the last process's number
environment.jsonl         a line for every start that came so far; must be whole lines
timing.jsonl              seconds; the place that every line is of counts, so none is missing or there twice
checkpoints/ but the last one   a stop on request writes one more, so their names and the last but one may differ,
                          and with it the versions that it alone points to
manifest.json             follows from the checkpoints, whose files are compared themselves
in evaluation.json        the path under which the weights lay (a run may be moved), and so the seal; not their hash
in state.json             what timing.jsonl held when it was written
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Contents = dict[str, bytes]

_PLACE = ("stage", "lineage", "step")


def contents(run: Path) -> Contents:
    """What counts in a finished run, by path inside it; folders end with a slash.

    Raises:
        ValueError: a file is not what it must be in any run.
    """
    newest = _newest_checkpoint(run)
    states = {path: (path / "state.json").read_text(encoding="utf-8") for path in newest.parent.glob("0*")}
    found: Contents = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if name in ("run.lock", "checkpoints/manifest.json"):
            continue
        if name.startswith("checkpoints/") and path.name != newest.name and path.parent != newest:
            if path.parent == run / "checkpoints" and not path.name.isdecimal():
                found[name] = b"left behind"
            continue
        if name.startswith("versions/"):
            named_by = [path for path, state in states.items() if f'"{name.split("/")[1]}"' in state]
            if not named_by:
                found[name] = b"left behind"
            if newest not in named_by:
                continue
        name = name.replace(f"checkpoints/{newest.name}", "checkpoints/newest")
        if path.is_dir():
            found[f"{name}/"] = b""
        elif name == "environment.jsonl":
            _records(path)
        elif name == "timing.jsonl":
            found[name] = _text([{key: record[key] for key in _PLACE} for record in _records(path)])
        elif name == f"report/{path.parent.name}/evaluation.json":
            found[name] = _text(_without(json.loads(path.read_bytes()), ("model", "seal")))
        elif path == newest / "state.json":
            found[name] = _text(_without(json.loads(path.read_bytes()), ("timing",)))
        else:
            found[name] = path.read_bytes()
    return found


def differences(expected: Contents, actual: Contents) -> list[str]:
    """A phrase for every file that is not the same."""
    told = [f"{name} is missing" for name in expected.keys() - actual.keys()]
    told += [f"{name} should not be there" for name in actual.keys() - expected.keys()]
    for name in expected.keys() & actual.keys():
        if expected[name] != actual[name]:
            told.append(f"{name} differs from byte {_first_difference(expected[name], actual[name])} on")
    return sorted(told)


def _newest_checkpoint(run: Path) -> Path:
    """
    Raises:
        ValueError: the manifest lists what is not there.
    """
    names = [
        entry["name"]
        for entry in json.loads((run / "checkpoints" / "manifest.json").read_bytes())["checkpoints"]
    ]
    there = {path.name for path in (run / "checkpoints").iterdir() if path.is_dir()}
    if not names or set(names) != there:
        raise ValueError(f"manifest.json lists the checkpoints {names}, and there are {sorted(there)}")
    return run / "checkpoints" / names[-1]


def _records(log: Path) -> list[Any]:
    """
    Raises:
        ValueError: a line is not whole.
    """
    *lines, rest = log.read_bytes().split(b"\n")
    if rest:
        raise ValueError(f"{log.name} ends with half a line")
    return [json.loads(line) for line in lines]


def _without(data: Any, keys: tuple[str, ...]) -> Any:
    """Nested tables without these entries, wherever they are."""
    if isinstance(data, dict):
        return {key: _without(value, keys) for key, value in data.items() if key not in keys}
    return data


def _text(data: Any) -> bytes:
    return json.dumps(data, indent=1).encode()


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
