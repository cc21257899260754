"""The commands that make a run of a study: the run itself, then its best checkpoint on each further problem set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from owpo.disk.sealed import write_sealed
from owpo.errors import InputError
from owpo.evaluation.folder import EvaluationFolder
from owpo.runs.folder import RunFolder
from owpo.study.grid import Point, StudyRun
from owpo.study.workers import Job

BASE = "base"


def jobs_of(runs: Sequence[StudyRun], out: Path) -> dict[Point, list[Job]]:
    """What is left to do of each run, in order; a run whose reference is made here waits for it.

    Args:
        runs: those that are not done.

    Raises:
        InputError: the reference of a run that has not begun is done, and its folder is gone.
    """
    to_do = {run.point: run for run in runs}
    training: dict[Point, Job] = {}

    def train(run: StudyRun) -> Job:
        if run.point not in training:
            reference, key = run.reference, run.point.key
            after = (train(to_do[reference]),) if reference in to_do else ()
            if reference is not None and not after and not run.folder.exists():
                _best_folder(out / "runs" / reference.key)
            training[run.point] = Job(key, partial(_train, run, out), out / "logs" / f"{key}.log", after)
        return training[run.point]

    return {run.point: [train(run), *_transfer_jobs(run, out, train(run))] for run in runs}


def is_of_another_reference(run: StudyRun, out: Path) -> bool:
    """Whether a run that has begun learned against other weights than its reference's run has now.

    False where that run's folder is gone: then its line in results.jsonl is all that is known of it.
    """
    if run.reference is None or not (teacher := out / "runs" / run.reference.key).exists():
        return False
    result = RunFolder(teacher).result()
    if result is None:  # it was done before anything learned against it, so it is being made anew
        return True
    best = RunFolder(teacher).versions.describe(best_row(result)["version"])
    return RunFolder(run.folder).versions.describe("reference").hash != best.hash


def is_done(run: StudyRun, out: Path) -> bool:
    return RunFolder(run.folder).result() is not None and all(
        _is_measured(folder) for _, _, folder in transfer_folders(run, out)
    )


def transfer_folders(run: StudyRun, out: Path) -> Iterator[tuple[str, str, Path]]:
    """(set, "base" or "best", the evaluation's folder) of each measurement of the run beside the report set.

    A set of the same name with other problems has another folder.
    """
    for name, table in run.transfer.items():
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:8]
        for which in (BASE, "best") if run.measures_base else ("best",):
            yield name, which, out / "transfer" / f"{run.point.key}-{name}-{digest}-{which}"


def best_row(result: dict[str, Any]) -> dict[str, Any]:
    """Of a run's closing table: the last stage's best checkpoint."""
    rows: list[dict[str, Any]] = [row for row in result["rows"] if "stage" in row]
    return max(rows, key=lambda row: row["stage"])


def _train(run: StudyRun, out: Path) -> list[str]:
    """`owpo train RECIPE --resume`; a folder that has been moved since is gone on with where it is."""
    if run.folder.exists():
        return ["resume", str(run.folder)]
    if run.reference is not None:
        run = run.learning_from(str(_best_folder(out / "runs" / run.reference.key)))
    recipe = out / "recipes" / f"{run.point.key}.json"
    write_sealed(recipe, run.config.model_dump(mode="json"))
    return ["train", str(recipe), "--resume"]


def _best_folder(folder: Path) -> Path:
    """
    Raises:
        InputError: the run is not there, or not done.
    """
    result = RunFolder(folder).result()
    if result is None:
        raise InputError(
            f"{folder}, whose best checkpoint other runs learn against, is gone; remove its line from results.jsonl, "
            "and it is run again"
        )
    return folder / "versions" / best_row(result)["version"]


def _transfer_jobs(run: StudyRun, out: Path, after: Job) -> list[Job]:
    return [
        Job(
            f"{run.point.key}, {which} on {name}",
            partial(_measure, run, name, which, folder),
            out / "logs" / f"{run.point.key}.log",
            (after,),
        )
        for name, which, folder in transfer_folders(run, out)
        if not _is_measured(folder)
    ]


def _is_measured(folder: Path) -> bool:
    evaluation = EvaluationFolder(folder)
    return evaluation.settings_file.is_file() and evaluation.result is not None


def _measure(run: StudyRun, name: str, which: str, folder: Path) -> list[str]:
    model = run.folder / "versions" / BASE if which == BASE else _best_folder(run.folder)
    words = ["eval", str(model), "--like", str(run.folder), "--data", _inline(run.transfer[name])]
    return [*words, "--out", str(folder)]


def _inline(value: Any) -> str:
    """A value as TOML writes it in a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)
