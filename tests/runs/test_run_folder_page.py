"""docs/run-folder.md names every file and field that a run writes, no others, and its lines of pandas run."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from conftest import write_problems
from safetensors.torch import load_file

from owpo.disk.logs import read_jsonl_records
from owpo.recipes import build_config
from owpo.run import train
from owpo.training import stage
from owpo.training.update import UpdateResult

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "run-folder.md").read_text(encoding="utf-8")
LEAPFROG = {"protocol": "leapfrog", "stages": 3, "first_steps": 3, "steps": 5}
BEST_OF_STAGE = {"protocol": "best_of_stage", "stages": 2, "steps": 2, "gate": {}}

LOGS = ("metrics", "timing", "rollouts", "evaluations", "lineage", "moves", "alarms", "tokens", "environment")
LOG_FILES = [f"{name}.jsonl.gz" if name == "tokens" else f"{name}.jsonl" for name in LOGS]
HEADINGS = {
    **{file: f"`{file}`" for file in (*LOG_FILES, "problems.json", "result.json")},
    "versions/ID/version.json": "`versions/ID/`",
    "checkpoints/manifest.json": "`checkpoints/`",
    "checkpoints/NUMBER/state.json": "`checkpoints/`",
    "report/ID/evaluation.json": "`report/ID/`",
    "report/ID/result.json": "`report/ID/`",
    "report/ID/report.jsonl": "`report/ID/`",
    "report/ID/problems/report.jsonl": "`report/ID/`",
    "bad_updates/stageN-stepM-updateK.json": "Other files",
    "bad_updates/stageN-stepM-updateK.safetensors": "Other files",
}
"""Of every file with fields: the section that explains them. The keys of config.json are those of docs/recipe.md."""
IN_PROSE = {
    "report/ID/result.json",
    "report/ID/problems/report.jsonl",
    *(file for file in HEADINGS if file.startswith("bad_updates")),
}
"""Files whose fields stand in no table of their own."""
FREE = {"pass_at", "verdicts", "files", "sha256", "log_marks", "stage_best", "passed", "verifier", "grader"}
"""Fields whose own keys are names of files, versions and the like."""
ELSEWHERE = {"result.json": {"lineage"}, "report/ID/result.json": {"report"}}
"""Fields whose own fields are those of another file."""
OF_OTHER_RUNS = {"engine"}
"""Fields that these runs do not write."""

Fields = dict[str, tuple[set[str], set[str]]]
"""File -> its top-level fields, and the fields inside them."""


@pytest.fixture
def folders(recipe_data, tmp_path, monkeypatch) -> list[Path]:
    """A leapfrog run; and one with a gate, noise, trackers, alarms, a skipped update and a report set chosen on."""
    first = train(build_config({**recipe_data, "ratchet": LEAPFROG}, "test")).folder

    lines = [{"prompt": f"{a}+{b}=", "answer": str(b)} for a in "89" for b in "0123456789"]
    for name in ("selection", "report"):
        write_problems(tmp_path / f"{name}.jsonl", lines)
    service = SimpleNamespace(init=lambda **_: None, log=lambda *_, **__: None, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "trackio", service)
    skip_first_update(monkeypatch)
    sections = {
        "ratchet": BEST_OF_STAGE,
        "run": {
            **recipe_data["run"],
            "folder": str(tmp_path / "gated"),
            "trackers": ["tensorboard", "trackio"],
        },
        "rollout": {**recipe_data["rollout"], "dynamic_sampling": False},
        "evaluation": {**recipe_data["evaluation"], "every": 1, "report_last": True},
        "verifier": {"kind": "exact", "flip_wrong": 0.3},
        "alarms": {"patience": 1, "max_zero_variance_share": 0.0},
    }
    return [first, train(build_config({**recipe_data, **sections}, "test")).folder]


def skip_first_update(monkeypatch) -> None:
    """As if its loss were not finite."""
    real, skipped = stage.optimiser_update, []

    def update(*args, **settings):
        if not skipped:
            skipped.append(True)
            return UpdateResult("loss is nan", float("nan"), float("nan"), 0, {})
        return real(*args, **settings)

    monkeypatch.setattr(stage, "optimiser_update", update)


def generic(path: Path) -> str:
    """A path in a run folder as the page writes it."""
    first, *rest = path.parts
    if first in ("versions", "report") and rest:
        rest[0] = "ID"
    elif first == "checkpoints" and rest and rest[0].isdecimal():
        rest[0] = "NUMBER"
    elif first == "tensorboard":
        rest = []
    elif first == "bad_updates" and rest:
        rest[0] = re.sub(r"stage\d+-step\d+-update\d+", "stageN-stepM-updateK", rest[0])
    return "/".join([first, *rest])


def paths(folder: Path) -> set[str]:
    """Everything in a run folder as the page writes it; folders end with a slash."""
    return {
        generic(path.relative_to(folder))
        + ("/" if path.is_dir() or "tensorboard" in path.relative_to(folder).parts else "")
        for path in folder.rglob("*")
    }


def fields(folders: list[Path]) -> Fields:
    """What the files of these runs hold."""
    found: Fields = {file: (set(), set()) for file in HEADINGS}
    for folder in folders:
        for path in folder.rglob("*"):
            file = generic(path.relative_to(folder))
            if file in HEADINGS and path.is_file():
                for record in records(path):
                    found[file][0].update(record)
                    found[file][1].update(inner(record, FREE | ELSEWHERE.get(file, set())))
    return found


def records(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".safetensors":
        return [dict.fromkeys(load_file(path))]
    return [json.loads(path.read_bytes())] if path.suffix == ".json" else read_jsonl_records(path)


def inner(value: Any, left_out: set[str], depth: int = 0) -> Iterator[str]:
    """The keys of all objects inside a record."""
    if isinstance(value, dict):
        if depth:
            yield from value
        for name, item in value.items():
            if name not in left_out:
                yield from inner(item, left_out, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from inner(item, left_out, depth + 1)


def section(page: str, heading: str) -> str:
    """The text under a heading, without fenced code."""
    text = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def tabled(text: str, kind: str = "field") -> set[str]:
    """The names in the first columns of a text's tables of fields, or of another kind of thing."""
    tables = re.findall(rf"^\| {kind}\b.*\n\|---.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def unnamed(page: str, written: Fields) -> list[tuple[str, str]]:
    """Fields that stand in no table of their section, or are not named in it at all where they are inside others."""
    missing = []
    for file, (top, deep) in written.items():
        text = section(page, HEADINGS[file])
        named = set(re.findall(r"`([^`\n]+)`", text))
        missing += [(file, name) for name in sorted(top - (named if file in IN_PROSE else tabled(text)))]
        missing += [(file, name) for name in sorted(deep - named)]
    return missing


def test_every_file_and_field_is_named(folders):
    written = fields(folders)
    assert [file for file, (top, _) in written.items() if not top] == [], (
        "the runs must write something into each"
    )
    assert unnamed(PAGE, written) == []
    files = tabled(PAGE, "path") | tabled(PAGE, "file")
    assert [path for folder in folders for path in sorted(paths(folder)) if path not in files] == []

    objectives = (DOCS / "objectives.md").read_text(encoding="utf-8")
    statistics = set(re.findall(r"^\| `(\w+)` \|", section(objectives, "Per-token statistics"), re.MULTILINE))
    assert statistics <= tabled(section(PAGE, "`metrics.jsonl`"))
    for heading in set(HEADINGS.values()):
        known = {
            name
            for file, found in written.items()
            if HEADINGS[file] == heading
            for name in set().union(*found)
        }
        known |= OF_OTHER_RUNS | (statistics if heading == "`metrics.jsonl`" else set())
        assert tabled(section(PAGE, heading)) - known == set(), f"{heading}: no run writes these"


def test_a_field_that_is_taken_out_is_missed(folders):
    written = fields(folders)
    for file, (top, deep) in written.items():
        for name in top | deep:
            heading = f"\n## {HEADINGS[file]}\n"
            before, after = PAGE.split(heading)
            text, *others = after.split("\n## ")
            page = before + heading + "\n## ".join([text.replace(f"`{name}`", ""), *others])
            assert (file, name) in unnamed(page, written)


def test_the_lines_of_pandas_run(folders):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    for folder in folders:
        names: dict[str, Any] = {}
        for block in blocks:
            exec(block.replace('"runs/demo"', repr(str(folder))), names)
        for log, file in zip(LOGS, LOG_FILES, strict=True):
            check_rows(names[log], read_jsonl_records(folder / file))
        check_token_rows(names, read_jsonl_records(folder / "tokens.jsonl.gz"))
        assert "drift.reference.kl" in names["lineage"]
        assert set(names["table"]["version"]) <= set(names["versions"]["id"])
        assert len(names["samples"]) == 2 * len(names["asked"])
        assert names["config"]["seed"].item() == 1
        assert set(names["problems"].index) == {"train", "selection", "report", "seal"}
        assert len(names["checkpoints"]) == 2


def check_rows(frame: pd.DataFrame, expected: list[dict[str, Any]]) -> None:
    """Every value that is no object stands in the frame as it was written, to the last digit; text stays text."""
    assert len(frame) == len(expected)
    for row, record in zip(frame.to_dict("records"), expected, strict=True):
        plain = {name: value for name, value in record.items() if isinstance(value, str | int | float)}
        assert {name: row[name] for name in plain} == plain
        assert record.keys() <= {column.split(".")[0] for column in row}  # objects may be taken apart


def check_token_rows(names: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    """A row for every token, with the numbers of its line."""
    rows = [
        (number, piece, line["logp"][number], line["weight"][number] if "weight" in line else None)
        for line in expected
        for number, piece in enumerate(line["pieces"])
    ]
    frame = names["by_token"][["token", "pieces", "logp", "weight"]].astype({"weight": object})
    assert list(frame.where(frame.notna(), None).itertuples(index=False, name=None)) == rows
    assert len(names["every_line"]) == len(rows)
    assert len(names["with_reference"]) == sum(weight is not None for *_, weight in rows)
    assert len(names["with_reference"]) > 0
