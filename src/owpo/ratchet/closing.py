"""The closing table: base, every reference and every stage's best on the report set, which no choice looked at."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from owpo.evaluation.intervals import paired_difference
from owpo.runs.files import write_json
from owpo.training.session import Session


def close_run(session: Session) -> None:
    """Measure every model once, on the same problems with the same seed, and write result.json."""
    best, metrics = session.progress.stage_best, session.folder.logs["metrics"].records()
    stages = {number: _describe_stage(int(number), metrics) for number in best}
    accuracy_N: dict[str, Tensor] = {}  # of each version, by problem
    rows = []
    for id in _versions(stages, best):
        session.folder.versions.load_into(session.policy, id)
        evaluation = session.evaluate(session.report, "report", session.config.evaluation.report_samples)
        accuracy_N[id] = evaluation.correct_NK.double().mean(dim=1)
        number = next((number for number, version in best.items() if version == id), None)
        row = {"version": id, **evaluation.to_json(), **(stages[number] if number is not None else {})}
        if row.get("reference") is not None:
            gain, low, high = paired_difference(accuracy_N[id], accuracy_N[row["reference"]])
            row |= {"gain": gain, "gain_low": low, "gain_high": high}
        rows.append(row)
    write_json(session.folder.result_file, {"rows": rows})


def _versions(stages: dict[str, dict[str, Any]], best: dict[str, str]) -> list[str]:
    """Base first, then stage by stage the reference and the best; each once, so a reference before its pupil."""
    versions = ["base"]
    for number in sorted(stages, key=int):
        versions += [stages[number]["reference"], best[number]]
    return [id for id in dict.fromkeys(versions) if id is not None]


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
