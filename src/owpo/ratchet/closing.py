"""The closing table: base, every reference and every stage's best that is kept, on the report set; asked for, also
the learner as the last stage left it.

Every model is measured once, on the same problems with the same seed. Its samples are an evaluation folder in
report/, so a run that is stopped here goes on here. Where a choice looked at the report problems the table says so,
and how much better than it is the chosen one is expected to look.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owpo.disk.sealed import write_sealed
from owpo.evaluation.evaluate import Evaluation
from owpo.evaluation.folder import EvaluationFolder, OtherSettings
from owpo.evaluation.intervals import paired_difference
from owpo.evaluation.selection import selection_inflation
from owpo.evaluation.shared import leave, shared_file, take
from owpo.problems.overlap import normalised
from owpo.training.session import Session


def close_run(session: Session) -> None:
    """Measure every model and write result.json."""
    progress, metrics = session.progress, session.folder.logs["metrics"].records()
    best, last = progress.stage_best, _last_version(session, metrics)
    stages = {number: _describe_stage(int(number), metrics) for number in best}
    accuracy_N: dict[str, Tensor] = {}  # of each version, by problem
    rows = []
    versions = _versions(stages, best, progress.versions())
    for id in dict.fromkeys([*versions, *([last] if last is not None else [])]):
        evaluation = _measure(session, id)
        accuracy_N[id] = evaluation.correct_NK.double().mean(dim=1)
        number = next((number for number, version in best.items() if version == id), None)
        row = {"version": id, **evaluation.to_json(), **(stages[number] if number is not None else {})}
        if row.get("reference") in accuracy_N:
            gain, low, high = paired_difference(accuracy_N[id], accuracy_N[row["reference"]])
            row |= {"gain": gain, "gain_low": low, "gain_high": high}
        if id == last:
            row["last"] = True
        rows.append(row)
    result = {
        "rows": rows,
        "in_force": progress.references[-1] if progress.references else None,
        "lineage": session.folder.logs["lineage"].records(),
        "selection": _selection(session),
    }
    write_sealed(session.folder.result_file, result)


def _measure(session: Session, id: str) -> Evaluation:
    """A version on the report set, from its samples on disk as far as they are there."""
    version = session.folder.versions.describe(id)
    report, engine = session.report_settings(), session.config.rollout.engine
    settings = {
        "model": str(session.folder.versions.folder / id),
        "model_hash": version.hash,
        "model_code_may_run": session.config.model.trust_remote_code,
        "dtype": session.config.run.dtype,
        "sets": {"report": report},
        **(
            {} if engine == "local" else {"engine": engine}
        ),  # owpo eval, which is local, must not go on with it
    }
    path = session.folder.path / "report" / id
    try:
        folder = EvaluationFolder.open(path, settings)
    except OtherSettings:  # of weights that a damaged checkpoint took with it
        shutil.rmtree(path)
        folder = EvaluationFolder.open(path, settings)
    judge_again = folder.begin("report", session.report, report["grader"])
    own, share = folder.samples_file("report"), session.config.evaluation.share
    shared = shared_file(Path(share), settings) if share is not None else None
    if shared is not None:
        take(shared, own)
    evaluation = session.evaluate_report(session.version_to_measure(id), id, own, judge_again)
    folder.finish(settings, {"report": evaluation.to_json()})
    if shared is not None:
        leave(own, shared)
    return evaluation


def _versions(stages: dict[str, dict[str, Any]], best: dict[str, str], kept: set[str]) -> list[str]:
    """Base first, then stage by stage the reference and the best; each once, so a reference before its pupil."""
    versions = ["base"]
    for number in sorted(stages, key=int):
        versions += [stages[number]["reference"], best[number]]
    return [id for id in dict.fromkeys(versions) if id in kept or id == "base"]


def _last_version(session: Session, metrics: list[dict[str, Any]]) -> str | None:
    """The learner as the plan left it, as a version; None where `evaluation.report_last` does not ask for it.

    To be called before anything is measured, which takes the learner's place.
    """
    if not session.config.evaluation.report_last:
        return None
    progress, versions = session.progress, session.folder.versions
    stage, step = metrics[-1]["stage"], metrics[-1]["step"]
    best = versions.describe(progress.stage_best[str(stage)])
    if best.step == step:
        return best.id
    id = f"stage{stage}-end"
    if id not in progress.versions():  # every_k has it already
        versions.add(
            session.policy,
            id,
            parent=progress.stage_start,
            stage=stage,
            step=step,
            reason=f"end of stage {stage}",
        )
    return id


def _describe_stage(number: int, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Who learned by what against whom, and the mean shares of tokens that the reference sped up and slowed down."""
    mine = [record for record in metrics if record["stage"] == number]
    first = mine[0]
    told = {"stage": number, **{key: first[key] for key in ("lineage", "objective", "reference")}}
    for name in ("accelerated", "locked"):
        values = [record[name] for record in mine if name in record]
        if values:
            told[name] = sum(values) / len(values)
    return told


def _selection(session: Session) -> dict[str, Any] | None:
    """How far the report set is also what checkpoints were chosen by; None where the two share no problem.

    choices    checkpoints that each stage chose its best among
    inflation  what the largest of these choices is expected to add to the chosen one's score on those problems, in
               [0, 1], were all its candidates equally good (`evaluation.selection`)
    """
    looked_at = {normalised(problem.prompt) for problem in session.selection}
    shared = sum(normalised(problem.prompt) in looked_at for problem in session.report)
    if shared == 0:
        return None
    by_stage: dict[int, list[list[float]]] = {}
    for record in session.folder.logs["evaluations"].records():
        share_N = [count / record["samples_per_problem"] for count in record["correct_by_problem"]]
        by_stage.setdefault(record["stage"], []).append(share_N)
    return {
        "shared_problems": shared,
        "choices": [len(rows) for rows in by_stage.values()],
        "inflation": max(selection_inflation(torch.tensor(rows)) for rows in by_stage.values()),
    }
