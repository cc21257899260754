"""The report: one HTML file that needs nothing beside itself.

What a model, a problem or a recipe says reaches the page as text alone: the template escapes it, the viewer's data
stand in JSON without a `<`, and the script sets them as text. The page's policy lets nothing run but that script, and
nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from owpo.disk.files import write_text
from owpo.report.drawing import Chart
from owpo.report.dynamics import StageDeviations, deviations
from owpo.report.figures import COEFFICIENTS, one_way_chart, one_way_edge, problems_chart, ratchet_chart
from owpo.report.health import comparison_chart, health_charts
from owpo.report.record import Record, RunRecord
from owpo.report.summary import problem_moves
from owpo.report.tables import alarms, answer, headline, lineage, made, moves, reproduce
from owpo.report.viewer import viewer_records

_TOKEN_BYTES = 2_500_000  # of all runs: beside the figures, a page of a few MB


def write_report(runs: Sequence[RunRecord], file: Path) -> None:
    """Write the page of these runs to `file`."""
    write_text(file, report_page(runs))


def save_figures(runs: Sequence[RunRecord], folder: Path) -> list[Path]:
    """Every figure as SVG and PDF; those of several runs with a line a recipe, and intervals over its seeds.

    Args:
        folder: an existing one.

    Returns:
        The files.
    """
    charts: list[Chart] = []
    if len(runs) > 1:
        charts += [comparison_chart(runs), *health_charts(runs, "health_")]
    else:
        run = runs[0]
        stages = deviations(run)
        charts += [ratchet_chart(run)] if run.evaluations else []
        charts += [one_way_chart(run, stages)] if stages else []
        charts += [problems_chart(each, f"problems_{each.version}") for each in problem_moves(run)]
        charts += health_charts(runs, "health_")
    return [file for chart in charts for file in chart.save(folder)]


def report_page(runs: Sequence[RunRecord]) -> str:
    """The whole page."""
    parts = {
        name: (files("owpo.report") / "templates" / f"report.{name}").read_text("utf-8")
        for name in ("css", "js")
    }
    template = (files("owpo.report") / "templates" / "report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    several = len(runs) > 1
    by_run = [deviations(run) for run in runs]
    data = [_data(run, stages, _TOKEN_BYTES // len(runs)) for run, stages in zip(runs, by_run, strict=True)]
    num_shown, num_kept = sum(len(each["records"]) for each in data), sum(len(run.tokens) for run in runs)
    digest = base64.b64encode(hashlib.sha256(parts["js"].encode()).digest()).decode()
    return environment.from_string(template).render(
        title=" and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs",
        css=parts["css"],
        script=parts["js"],
        script_hash=f"sha256-{digest}",
        data=_script_safe({"runs": data}),
        runs=[
            _of_run(run, f"run{number}", stages, several)
            for number, (run, stages) in enumerate(zip(runs, by_run, strict=True))
        ],
        comparison=comparison_chart(runs, "comparison")
        if several and any(run.evaluations for run in runs)
        else None,
        health=list(health_charts(runs, "all-")) if several else [],
        has_tokens=num_kept > 0,
        tokens_about=_tokens_about(num_shown, num_kept),
    )


def _script_safe(data: Any) -> str:
    """JSON for a script element: nothing in it can end the element, or begin a comment."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _tokens_about(num_shown: int, num_kept: int) -> str:
    told = (
        "Every token of the recorded responses, under the policy and its reference. “Trained on”: as the update saw "
        "them. “Watched”: always the same problems of the selection set, when a stage begins and at each evaluation."
    )
    if num_shown < num_kept:
        told += f" On this page: {num_shown} of {num_kept} recorded responses, at even distances."
    return told


def _data(run: RunRecord, stages: Sequence[StageDeviations], budget: int) -> Record:
    """What the script reads."""
    curve: Record | None = None
    if stages:
        sizes = sorted(size for stage in stages for size in stage.size.tolist())
        curve = {
            "edge": one_way_edge(stages),
            "size": sizes[len(sizes) // 2],
            "low": COEFFICIENTS[0],
            "high": COEFFICIENTS[1],
        }
    return {
        "name": run.name,
        "curve": curve,
        "flips": [stage.turning_points() for stage in stages],
        "records": viewer_records(run, budget),
    }


def _of_run(run: RunRecord, key: str, stages: Sequence[StageDeviations], several: bool) -> Record:
    """What the template reads of a run."""
    return {
        "key": key,
        "name": run.name,
        "prefix": f"{run.name}: " if several else "",
        "headline": headline(run),
        "status": run.status,
        "is_finished": run.is_finished,
        "answer": answer(run),
        "ratchet": ratchet_chart(run, f"{key}-ratchet") if run.evaluations else None,
        "lineage": lineage(run),
        "one_way": one_way_chart(run, stages, f"{key}-one_way") if stages else None,
        "problems": [problems_chart(each, f"{key}-problems{i}") for i, each in enumerate(problem_moves(run))],
        "moves": moves(run),
        "alarms": alarms(run),
        "health": list(health_charts([run], f"{key}-")),
        "made": made(run),
        "reproduce": reproduce(run),
        "recipe": json.dumps(run.config.model_dump(mode="json"), indent=2),
    }
