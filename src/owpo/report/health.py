"""Lines against rollout steps: a run's health, metric by metric, and several runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from owpo.report.drawing import NARROW, PANEL, WIDE, Chart, percent, some, style
from owpo.report.record import RunRecord, repetitions
from owpo.report.series import Points, Series, evaluation_points, metric_points, series


def comparison_chart(runs: Sequence[RunRecord], name: str = "ratchet") -> Chart:
    """Accuracy on the selection set of several runs; runs that differ by their seed alone are one line, with a t
    interval over seeds."""
    lines = _of_all(runs, evaluation_points)
    return _lines_chart(
        name, "Accuracy on the selection set", lines, as_percent=True, size=WIDE, narrow=NARROW,
        note="95% intervals: over seeds where a line is several runs, else over problems",
    )  # fmt: skip


# Of its file, title, whether shares, lines: (what it is called, metric).
_HEALTH: tuple[tuple[str, str, bool, tuple[tuple[str, str], ...]], ...] = (
    ("reward", "Training accuracy", True, (("accuracy", "accuracy"),)),
    ("entropy", "Entropy of the policy, nats a token", False, (("entropy", "entropy"),)),
    (
        "length", "Response length, tokens", False,
        (("mean", "response_length"), ("95th percentile", "response_length_p95")),
    ),
    ("truncated", "Truncated responses", True, (("truncated", "truncated_share"),)),
    ("kl", "KL to the reference, nats a token", False, (("KL", "kl_to_reference"),)),
    ("grad_norm", "Gradient norm before clipping", False, (("norm", "grad_norm"),)),
    (
        "zero_variance", "Groups without contrast", True,
        (("all right", "all_right_share"), ("all wrong", "all_wrong_share")),
    ),
    (
        "verdicts", "Responses without a verdict", True,
        (("unparseable", "unparseable_share"), ("timeout", "timeout_share"), ("error", "error_share")),
    ),
    (
        "weights", "Tokens by weight", True,
        (("accelerated", "accelerated"), ("locked", "locked"), ("saturated", "saturated")),
    ),
    (
        "seconds", "Seconds a step, by phase", False,
        tuple((phase, phase) for phase in ("sampling", "verifying", "reference", "updating")),
    ),
    ("throughput", "Sampled tokens a second of a step", False, (("tokens/s", "tokens_per_second"),)),
)  # fmt: skip


def health_charts(runs: Sequence[RunRecord], prefix: str = "") -> Iterator[Chart]:
    """One chart a metric that at least one run has; of several runs a line each, of the metric's first number."""
    for name, title, as_percent, numbers in _HEALTH:
        if len(runs) == 1:
            lines = [series(line, [metric_points(runs[0], metric)]) for line, metric in numbers]
        else:
            line, metric = numbers[0]
            lines = _of_all(runs, partial(metric_points, metric=metric))
            title = title if len(numbers) == 1 else f"{title}: {line}"
        if any(line.x for line in lines):
            yield _lines_chart(f"{prefix}{name}", title, lines, as_percent=as_percent, size=PANEL)


def _of_all(runs: Sequence[RunRecord], points: Callable[[RunRecord], Points]) -> list[Series]:
    return [series(name, map(points, members)) for name, members in repetitions(runs).items()]


def _lines_chart(
    name: str,
    title: str,
    lines: Sequence[Series],
    *,
    as_percent: bool,
    size: tuple[float, float],
    narrow: tuple[float, float] | None = None,
    note: str = "",
) -> Chart:
    def told(value: float) -> str:
        return percent(value) if as_percent else f"{value:.4g}"

    lines = [line for line in lines if line.x]
    rows = [
        [line.name, f"{x:g}", told(y), f"{told(low)} to {told(high)}" if line.has_interval else ""]
        for line in lines
        for x, y, low, high in some(list(zip(line.x, line.y, line.low, line.high, strict=True)), len(lines))
    ]
    return Chart(
        name=name,
        title=title,
        says=f"{title} against rollout steps, as {len(lines)} lines; the table holds the numbers.",
        draw=partial(_draw_lines, title, lines, as_percent, note),
        size=size,
        narrow=narrow,
        columns=["line", "step", "value", "95% interval"],
        rows=rows,
    )


def _draw_lines(title: str, lines: Sequence[Series], as_percent: bool, note: str, figure: Figure) -> None:
    axes = figure.subplots()
    for order, line in enumerate(lines):
        axes.plot(line.x, line.y, label=line.name, **style(order))
        if line.has_interval:
            axes.fill_between(
                line.x, line.low, line.high, color=style(order)["color"], alpha=0.16, linewidth=0
            )
    if as_percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel(f"rollout steps; {note}" if note else "rollout steps")
    axes.set_title(title)
    if len(lines) > 1:
        figure.legend(loc="outside lower left", ncols=2 if len(lines) > 3 else 3, columnspacing=1.2)
