"""results.jsonl: a line a finished run, from which all tables, figures and the page are made.

Shape legend: N problems of the report set, K samples per problem.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from owpo.config import Section
from owpo.disk.logs import JSONLLog
from owpo.disk.sealed import read_sealed
from owpo.errors import InputError
from owpo.evaluation.evaluate import Evaluation, evaluation_of
from owpo.evaluation.folder import EvaluationFolder
from owpo.evaluation.intervals import pass_at
from owpo.evaluation.samples import read_samples
from owpo.report.record import RunRecord, read_run
from owpo.report.series import evaluation_points, metric_points
from owpo.study.file import Study
from owpo.study.grid import Point, StudyRun, points_of, runs_of
from owpo.study.jobs import best_row, transfer_folders

FILE = "results.jsonl"
_MACHINE = ("cpu_count", "cuda", "python", "torch", "transformers", "owpo")


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

    def pass_at(self, j: int) -> list[float]:
        """[N], pass@j of each problem."""
        return [pass_at([[1.0] * count + [0.0] * (self.samples - count)], j) for count in self.correct]


class Transfer(Section):
    """What a run's best checkpoint answered on a problem set beside the report set."""

    base: Score | None
    """What the run started from; measured once for each task, setting and seed."""
    best: Score
    problems: str
    """Digest of the set."""


class Drift(Section):
    """How far a candidate for the reference had gone."""

    accepted: bool
    """Whether it became the reference."""
    kl: float
    """KL(candidate || the reference that it was held against), nats a token."""
    kl_first: float
    """KL(candidate || the run's first reference)."""


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
    selection: tuple[float, float, float]
    """The best one's accuracy on the selection set, and its interval over problems. It was chosen by this number."""
    transfer: dict[str, Transfer] = Field(default_factory=dict)
    """By the name of the set."""
    problems: str
    """Digest of the report set."""
    shared_problems: int
    """Problems of the report set that checkpoints were chosen by, too."""
    curve: list[tuple[int, float, float, float]]
    """Of each evaluation on the selection set: rollout steps of the whole run, accuracy, its interval over problems."""
    metrics: dict[str, list[tuple[int, float]]] = Field(default_factory=dict)
    """By the metric's name: rollout steps at each evaluation, and the metric's mean over the steps since the last."""
    drift: list[Drift] = Field(default_factory=list)
    """Of each candidate for the reference, in order."""
    steps: int
    """Rollout steps."""
    responses: int
    """Sampled to train on, those of groups that were dropped among them; its reference's are not counted."""
    updates: int
    """Of the optimiser."""
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
        """Of "best", "last", or a transfer set."""
        if measure in self.transfer:
            return self.transfer[measure].best
        return {"best": self.best, "last": self.last}.get(measure)

    def accuracy(self, measure: str) -> float | None:
        """Of "selection", or of what has a score."""
        if measure == "selection":
            return self.selection[0]
        score = self.score(measure)
        return None if score is None else score.accuracy


def result_of(run: StudyRun, out: Path, metrics: Sequence[str] = ()) -> Result:
    """
    Args:
        run: a finished one, measured on its further sets too.
        out: the study's folder.
        metrics: names of what is kept of metrics.jsonl.

    Raises:
        InputError: something in its folder is damaged.
    """
    record = read_run(run.folder)
    assert record.result is not None
    best = best_row(record.result)
    last = next((row["version"] for row in record.result["rows"] if "last" in row), None)
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
        selection=_selection(record, best["stage"]),
        transfer=_transfer(run, out),
        problems=read_sealed(run.folder / "problems.json")["report"],
        shared_problems=chosen["shared_problems"] if chosen is not None else 0,
        curve=[(step, *point) for step, point in sorted(evaluation_points(record).items())],
        metrics={name: means for name in metrics if (means := _means(record, name))},
        drift=[
            Drift(
                accepted=line["accepted"],
                kl=round(line["drift"]["reference"]["kl"], 6),
                kl_first=round(line["drift"]["first"]["kl"], 6),
            )
            for line in record.lineage
            if "drift" in line
        ],
        steps=len(record.metrics),
        responses=_total(record, "groups_sampled") * run.config.rollout.group_size,
        updates=_total(record, "updates"),
        seconds=round(sum(line["seconds"] or 0.0 for line in record.timing), 3),
        finished=finished.isoformat(timespec="seconds"),
        code=start.get("code"),
        machine=_machine(start),
    )


def _score(record: RunRecord, version: str) -> Score:
    evaluation = record.report_set.get(version)
    if evaluation is None:
        raise InputError(
            f"{record.folder} has no samples of {version} in its folder report; restore it, or remove {record.folder} "
            "to run it anew"
        )
    return _counts(version, evaluation)


def _counts(version: str, evaluation: Evaluation) -> Score:
    return Score(
        version=version,
        samples=evaluation.correct_NK.shape[1],
        correct=evaluation.correct_NK.sum(dim=1).tolist(),
    )


def _machine(start: dict[str, Any]) -> dict[str, Any]:
    """What decides the bits, in short: of the platform the system and the processor."""
    system = str(start.get("platform")).partition("-")[0]
    return {"platform": f"{system} {start.get('processor')}", **{name: start.get(name) for name in _MACHINE}}


def _total(record: RunRecord, name: str) -> int:
    """0 where a host does not count it."""
    return sum(int(line.get(name) or 0) for line in record.metrics)


def _selection(record: RunRecord, stage: int) -> tuple[float, float, float]:
    of_stage = [line for line in record.evaluations if line["stage"] == stage]
    best = max(of_stage, key=lambda line: line["accuracy"])
    return best["accuracy"], best["low"], best["high"]


def _transfer(run: StudyRun, out: Path) -> dict[str, Transfer]:
    found: dict[str, dict[str, Any]] = {name: {"base": None} for name in run.transfer}
    for name, which, path in transfer_folders(run, out):
        folder = EvaluationFolder.read(path)
        ((set_name, settings),) = folder.settings["sets"].items()
        evaluation = evaluation_of(read_samples(folder.samples_file(set_name)))
        version = Path(folder.settings["model"]).name
        found[name] |= {which: _counts(version, evaluation), "problems": settings["problems"]}
    return {name: Transfer(**parts) for name, parts in found.items()}


def _means(record: RunRecord, name: str) -> list[tuple[int, float]]:
    points = {step: value for step, (value, _, _) in metric_points(record, name).items()}
    means, before = [], 0
    for step in sorted(evaluation_points(record)):
        since = [value for at, value in points.items() if before < at <= step]
        if since:
            means.append((step, round(statistics.fmean(since), 6)))
        before = step
    return means


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
