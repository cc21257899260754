"""results.jsonl: a line a finished run, from which all tables, figures and the page are made.

Shape legend: N problems of the report set, K samples per problem.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from owpo.config import Section
from owpo.disk.logs import JSONLLog
from owpo.disk.sealed import read_sealed
from owpo.errors import InputError
from owpo.report.record import RunRecord, read_run
from owpo.report.series import evaluation_points
from owpo.study.file import Study
from owpo.study.grid import Point, StudyRun, points_of, runs_of

FILE = "results.jsonl"
_MACHINE = ("platform", "processor", "cpu_count", "cuda", "python", "torch", "transformers", "owpo")


class Score(Section):
    version: str
    """What the run calls the weights."""
    samples: Annotated[int, Field(ge=1)]
    """K."""
    correct: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """[N], right samples of each problem, in the order of the set."""

    @property
    def shares(self) -> list[float]:
        """[N], of each problem's right samples."""
        return [count / self.samples for count in self.correct]

    @property
    def accuracy(self) -> float:
        """avg@K, in [0, 1]."""
        return sum(self.correct) / (self.samples * len(self.correct))


class Result(Section):
    """What one run came to."""

    format: Literal[1] = 1
    task: str
    setting: str
    arm: str
    seed: int
    asked: str
    """`StudyRun.asked`: which configuration this is the result of."""
    base: Score
    """What the run started from."""
    best: Score
    """The last stage's best checkpoint on the selection set."""
    last: Score | None
    """The weights at the end of the run; None where they were not measured."""
    problems: str
    """Digest of the report set."""
    shared_problems: int
    """Problems of the report set that checkpoints were chosen by, too."""
    curve: list[tuple[int, float, float, float]]
    """Of each evaluation on the selection set: rollout steps of the whole run, accuracy, its interval over problems."""
    steps: int
    """Rollout steps."""
    seconds: float
    """Of the steps, without evaluations and starts."""
    finished: str
    """When, to the second, in UTC."""
    code: dict[str, Any] | None
    """Commit of the checkout and whether it was modified, at the last start; None where owpo was installed."""
    machine: dict[str, Any]

    @property
    def point(self) -> Point:
        return Point(self.task, self.setting, self.arm, self.seed)

    def score(self, measure: str) -> Score | None:
        return {"best": self.best, "last": self.last}[measure]


def result_of(run: StudyRun) -> Result:
    """
    Args:
        run: a finished one.

    Raises:
        InputError: something in its folder is damaged.
    """
    record = read_run(run.folder)
    assert record.result is not None
    rows = record.result["rows"]
    best = max((row for row in rows if "stage" in row), key=lambda row: row["stage"])
    last = next((row["version"] for row in rows if "last" in row), None)
    start: dict[str, Any] = record.starts[-1] if record.starts else {}
    chosen = record.result["selection"]
    finished = datetime.fromtimestamp(record.files.result_file.stat().st_mtime, UTC)
    return Result(
        task=run.point.task,
        setting=run.point.setting,
        arm=run.point.arm,
        seed=run.point.seed,
        asked=run.asked,
        base=_score(record, "base"),
        best=_score(record, best["version"]),
        last=_score(record, last) if last is not None else None,
        problems=read_sealed(run.folder / "problems.json")["report"],
        shared_problems=chosen["shared_problems"] if chosen is not None else 0,
        curve=[(step, *point) for step, point in sorted(evaluation_points(record).items())],
        steps=len(record.metrics),
        seconds=round(sum(line["seconds"] or 0.0 for line in record.timing), 3),
        finished=finished.isoformat(timespec="seconds"),
        code=start.get("code"),
        machine={name: start.get(name) for name in _MACHINE},
    )


def _score(record: RunRecord, version: str) -> Score:
    evaluation = record.report_set.get(version)
    if evaluation is None:
        raise InputError(
            f"{record.folder} has no samples of {version} in its folder report; restore it, or remove {record.folder} "
            "to run it anew"
        )
    return Score(
        version=version,
        samples=evaluation.correct_NK.shape[1],
        correct=evaluation.correct_NK.sum(dim=1).tolist(),
    )


class ResultsFile:
    """A study's results on disk, in the order of its grid."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> list[Result]:
        """
        Raises:
            InputError: a line is damaged, or of another version of owpo.
        """
        found = []
        for number, line in enumerate(JSONLLog(self.path).records() if self.path.is_file() else [], start=1):
            try:
                found.append(Result.model_validate_json(json.dumps(line)))
            except ValidationError as error:
                first = error.errors()[0]
                raise InputError(
                    f"{self.path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}; restore it, or "
                    "remove the file: it is made again of the runs"
                ) from error
        return found

    def write(self, study: Study, results: list[Result]) -> None:
        place = {point: number for number, point in enumerate(points_of(study))}
        ordered = sorted(results, key=lambda result: place[result.point])
        JSONLLog(self.path).replace(*(result.model_dump(mode="json") for result in ordered))


def stored_results(study: Study, folder: Path) -> list[Result]:
    """The results in a study's folder, without looking at any run.

    Raises:
        InputError: there are none, or some are of other settings than the study asks for.
    """
    found = ResultsFile(folder).read()
    if not found:
        raise InputError(f"no results in {folder / FILE}; run the study first: {study.command}")
    asked = {run.point: run.asked for run in runs_of(study, folder)}
    other = [r.point.key for r in found if r.point not in asked or asked[r.point] != r.asked]
    if other:
        whole = "without --full" if study.is_full else "with --full, if they are of the whole study"
        raise InputError(
            f"{folder / FILE} holds results of other settings than the study asks for now: {', '.join(other[:5])}"
            f"{' ...' if len(other) > 5 else ''}; restore the study's file, or ask {whole}"
        )
    return found
