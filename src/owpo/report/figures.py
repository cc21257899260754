"""The figures of one run: the ratchet, the one-way dynamics, the problems that moved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from owpo.report.drawing import (
    ACCELERATED,
    INK,
    LOCKED,
    MARKS,
    MUTED,
    NARROW,
    PANEL,
    RULE,
    SERIES,
    WIDE,
    Chart,
    percent,
    some,
    style,
)  # fmt: skip
from owpo.report.dynamics import StageDeviations, weight_curve
from owpo.report.record import RunRecord
from owpo.report.series import some_of
from owpo.report.summary import DIFFICULTIES, MOVES, Moves, scores


def ratchet_chart(run: RunRecord, name: str = "ratchet") -> Chart:
    """Accuracy on the selection set against the step, a colour a stage, with the references and every decision
    (arXiv 2605.22156, Figures 4 and 5)."""
    rows = [
        [
            str(record["stage"]),
            record.get("lineage", ""),
            str(run.total_step(record["stage"], record["step"])),
            percent(record["accuracy"]),
            f"{percent(record['low'])} to {percent(record['high'])}",
            "best so far" if record["best"] else "",
        ]
        for record in run.evaluations
    ]
    return Chart(
        name=name,
        title="The ratchet: accuracy on the selection set",
        says=f"Accuracy against rollout steps in {len(run.stages)} stages; the table below holds the numbers.",
        draw=partial(_draw_ratchet, run),
        size=WIDE,
        narrow=NARROW,
        columns=["stage", "lineage", "step", "accuracy", "95% interval", ""],
        rows=some(rows),
    )


_MOST_NAMED = 8  # stages; of more, as every_k makes them, none has a place in the legend


def _draw_ratchet(run: RunRecord, figure: Figure) -> None:
    axes = figure.subplots()
    narrow = figure.get_size_inches()[0] < WIDE[0]
    has_names = len(run.stages) <= _MOST_NAMED
    for order, number in enumerate(run.stages):
        records = [record for record in run.evaluations if record["stage"] == number]
        start, end = run.total_step(number, 0), run.of_stage(number)[-1]["total_step"]
        colour, mark = SERIES[order % len(SERIES)], MARKS[order % len(MARKS)]
        if order:
            axes.axvline(start, color=RULE, linewidth=0.8, zorder=0)
        x = [run.total_step(number, record["step"]) for record in records]
        y = [record["accuracy"] for record in records]
        below = [record["accuracy"] - record["low"] for record in records]
        above = [record["high"] - record["accuracy"] for record in records]
        first = run.of_stage(number)[0]
        axes.errorbar(
            x, y, yerr=[below, above], color=colour, marker=mark, elinewidth=0.7,
            label=f"stage {number}, lineage {first['lineage']}: {first['objective']}" if has_names else None,
        )  # fmt: skip
        _draw_reference(axes, run, first["reference"], (start, end), colour, has_names and not narrow)
    _draw_decisions(axes, run)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rollout steps")
    axes.set_title("Right answers, with 95% intervals over problems")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.08)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower left", ncols=1 if narrow else 2)


def _draw_reference(
    axes: Axes, run: RunRecord, reference: str | None, span: tuple[float, float], colour: str, has_name: bool
) -> None:
    """What a stage learns against, as a line over its steps."""
    if reference is None:
        return
    accuracy, told = run.accuracy_of.get(reference), ""
    if accuracy is None:
        row = next((score for score in scores(run) if score.version == reference), None)
        if row is None:
            return
        accuracy, told = row.accuracy, f" ({row.set} set)"
    axes.plot(span, (accuracy, accuracy), color=colour, linestyle=(0, (2, 2)), linewidth=1.1)
    if has_name:
        axes.annotate(
            f"reference {reference}{told}", (span[1], accuracy), xytext=(-2, -3), textcoords="offset points",
            ha="right", va="top", fontsize=7, color=MUTED,
        )  # fmt: skip


def _draw_decisions(axes: Axes, run: RunRecord) -> None:
    """Moves of the reference, at the candidate: accepted or refused."""
    kinds: tuple[tuple[bool, str, str], ...] = (
        (True, "^", "became the reference"),
        (False, "X", "refused"),
    )
    for accepted, mark, told in kinds:
        found = [r for r in run.lineage if "accuracy" in r and r["accepted"] is accepted]
        if found:
            axes.scatter(
                [run.total_step(r["stage"], r["step"]) for r in found], [r["accuracy"] for r in found],
                marker=mark, s=62, facecolors="none" if accepted else INK, edgecolors=INK, linewidths=1.1, zorder=5,
                label=told,
            )  # fmt: skip


def one_way_chart(run: RunRecord, stages: Sequence[StageDeviations], name: str = "one_way") -> Chart:
    """The weight g(delta) with this run's deviations under it (arXiv 2605.22156, Figure 3, with data)."""
    rows = [
        [
            str(stage.stage), stage.reference, str(len(stage.delta)), f"{stage.delta.mean():+.3f}",
            *(f"{stage.delta.quantile(level):+.3f}" for level in (0.05, 0.5, 0.95)),
            percent((stage.delta < 0).double().mean().item()), percent((stage.delta > 0).double().mean().item()),
        ]
        for stage in stages
    ]  # fmt: skip
    return Chart(
        name=name,
        title="One-way dynamics: what a deviation does to a token's step",
        says="Above, the weight as a function of the deviation; below, how often each deviation occurred, by stage.",
        draw=partial(_draw_one_way, run, stages),
        size=(7.6, 3.9),
        narrow=(3.9, 3.9),
        columns=[
            "stage",
            "reference",
            "tokens",
            "mean δ",
            "5%",
            "median",
            "95%",
            "lagging (δ < 0)",
            "past (δ > 0)",
        ],
        rows=rows,
    )


COEFFICIENTS = (-0.35, 1.45)  # what the upper axes show


def one_way_edge(stages: Sequence[StageDeviations]) -> float:
    """The largest deviation that the axes show, in nats: nearly all are within."""
    sizes = torch.cat([stage.delta for stage in stages]).abs().sort().values
    return max(0.5, min(5.0, sizes[int(0.995 * (len(sizes) - 1))].item()))


def _draw_one_way(run: RunRecord, stages: Sequence[StageDeviations], figure: Figure) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
    edge = one_way_edge(stages)
    grid = torch.linspace(-edge, edge, 401, dtype=torch.float64)
    weight = weight_curve(run, grid)
    if weight is not None:
        above.fill_between(grid, 1, weight, where=weight > 1, color=ACCELERATED, alpha=0.25, linewidth=0)
        above.fill_between(grid, 1, weight, where=weight < 1, color=LOCKED, alpha=0.25, linewidth=0)
        above.plot(grid, weight, color=INK)
        above.text(-edge, 1.0, " accelerated", va="bottom", color=ACCELERATED)
        above.text(edge, 1.0, "locked ", va="top", ha="right", color=LOCKED)
    above.axhline(0, color=MUTED, linewidth=0.7)
    above.set_ylim(*COEFFICIENTS)
    above.set_gid("one-way-axes")
    above.set_title("Coefficient of a token's step, of the verifier's")
    bins = torch.linspace(-edge, edge, 61).tolist()
    for order, stage in enumerate(some_of(stages, _MOST_NAMED)):
        inside = stage.delta.clamp(-edge, edge).tolist()
        share = [100 / len(inside)] * len(inside)
        below.hist(
            inside, bins=bins, weights=share, histtype="step", linewidth=1.2,
            color=SERIES[order % len(SERIES)], linestyle=style(order)["linestyle"],
            label=f"stage {stage.stage}, against {stage.reference}",
        )  # fmt: skip
    below.axvline(0, color=MUTED, linewidth=0.7)
    below.set_xlim(-edge, edge)
    below.set_title("Recorded tokens by deviation, % of a stage's")
    below.set_xlabel("δ = sgn(A) (log π − log ref), nats")
    figure.legend(loc="outside lower left")


def problems_chart(moves: Moves, name: str) -> Chart:
    """Problems gained, kept and lost by a model against the one it learned against, by difficulty."""
    return Chart(
        name=name,
        title=f"{moves.version} against {moves.reference}",
        says=f"Problems that {moves.version} gained, kept and lost against {moves.reference}, by difficulty.",
        draw=partial(_draw_problems, moves),
        size=PANEL,
        columns=["difficulty", *MOVES],
        rows=[
            [difficulty, *(str(moves.counts[difficulty][move]) for move in MOVES)]
            for difficulty in DIFFICULTIES
        ],
    )


def _draw_problems(moves: Moves, figure: Figure) -> None:
    axes = figure.subplots()
    looks = {"gained": (ACCELERATED, ""), "kept": (RULE, ""), "lost": (LOCKED, "////"), "never": ("none", "")}
    left = [0] * len(DIFFICULTIES)
    for move in MOVES:
        counts = [moves.counts[difficulty][move] for difficulty in DIFFICULTIES]
        colour, hatch = looks[move]
        axes.barh(
            DIFFICULTIES,
            counts,
            left=left,
            label=move,
            facecolor=colour,
            hatch=hatch,
            edgecolor=MUTED,
            linewidth=0.5,
        )
        left = [before + count for before, count in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("problems")
    figure.legend(loc="outside lower left", ncols=4, handlelength=1.2, columnspacing=1)
    axes.set_title(f"{moves.version} against {moves.reference}")
