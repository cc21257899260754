"""The closing table: base, given reference and every stage's best on the report set, which no choice looked at."""

from __future__ import annotations

from typing import Any

from owpo.runs.files import write_json
from owpo.training.session import Session


def close_run(session: Session) -> None:
    """Measure the table, write result.json and show it."""
    metrics = session.folder.logs["metrics"].records()
    rows = []
    for role, id in _models(session):
        session.folder.versions.load_into(session.policy, id)
        evaluation = session.evaluate(session.report, "report", session.config.evaluation.report_samples)
        rows.append({"model": role, "version": id, **evaluation.to_json(), **_token_shares(role, metrics)})
        session.stop.check()
    write_json(session.folder.result_file, {"rows": rows})


def _models(session: Session) -> list[tuple[str, str]]:
    """(role, version) of every model in the table."""
    models = [("base", "base")]
    if (session.folder.versions.folder / "reference").is_dir():
        models.append(("given reference", "reference"))
    best = session.progress.stage_best.items()
    return models + [(f"stage {number}", id) for number, id in sorted(best, key=lambda item: int(item[0]))]


def _token_shares(role: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over a stage's steps of the shares of tokens that the reference sped up and slowed down."""
    mine = [record for record in metrics if role == f"stage {record['stage']}"]
    if not mine:
        return {}
    shares: dict[str, Any] = {
        "lineage": mine[0]["lineage"],
        "objective": mine[0]["objective"],
        "reference": mine[0]["reference"],
    }
    for name in ("accelerated", "locked"):
        values = [record[name] for record in mine if name in record]
        if values:
            shares[name] = sum(values) / len(values)
    return shares
