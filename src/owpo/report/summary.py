"""What a run came to, in numbers: the models' accuracies, what changed since the base, and which problems moved.

Shape legend: N problems, K samples per problem.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor

from owpo.evaluation.comparison import compare
from owpo.evaluation.evaluate import Evaluation
from owpo.evaluation.intervals import paired_difference
from owpo.report.record import Record, RunRecord


@dataclass(frozen=True)
class Score:
    """A model's accuracy, in [0, 1], with its 95% interval over problems.

    role        what the model was in the run
    since_base  paired difference from the base with its interval; None for the base, and without a report set
    against     the same from the model it learned against
    set         which problems: "report" or "selection"
    """

    version: str
    role: str
    accuracy: float
    low: float
    high: float
    set: str
    by: str | None = None
    reference: str | None = None
    since_base: tuple[float, float, float] | None = None
    against: tuple[float, float, float] | None = None


def scores(run: RunRecord) -> list[Score]:
    """The rows of the closing table; of a run without one, the best of every stage so far, on the selection set."""
    if run.result is None:
        return _best_so_far(run)
    base = run.report_set.get("base")
    found = []
    for row in run.result["rows"]:
        mine = run.report_set.get(row["version"])
        since_base = None
        if mine is not None and base is not None and mine is not base:
            since_base = paired_difference(_shares(mine), _shares(base))
        found.append(
            Score(
                version=row["version"],
                role=_role(row),
                accuracy=row["accuracy"],
                low=row["low"],
                high=row["high"],
                set="report",
                by=row.get("objective"),
                reference=row.get("reference"),
                since_base=since_base,
                against=(row["gain"], row["gain_low"], row["gain_high"]) if "gain" in row else None,
            )
        )
    return found


def _role(row: Record) -> str:
    last = "end of the run" if "last" in row else None
    if "stage" in row:
        best = f"best of stage {row['stage']}"
        return f"{best}, {last}" if last else best
    return last or ("base" if row["version"] == "base" else "reference")


def _best_so_far(run: RunRecord) -> list[Score]:
    found = []
    for number in dict.fromkeys(record["stage"] for record in run.evaluations):
        best = max(
            (record for record in run.evaluations if record["stage"] == number),
            key=lambda record: record["accuracy"],
        )
        first = next((record for record in run.metrics if record["stage"] == number), {})
        found.append(
            Score(
                version=f"stage{number}-step{best['step']}",
                role=f"best of stage {number} so far",
                accuracy=best["accuracy"],
                low=best["low"],
                high=best["high"],
                set="selection",
                by=first.get("objective"),
                reference=first.get("reference"),
            )
        )
    return found


def _shares(evaluation: Evaluation) -> Tensor:
    """[N], of each problem's right samples."""
    return evaluation.correct_NK.double().mean(dim=1)


@dataclass(frozen=True)
class Moves:
    """How a model's problems moved against the model it learned against, by how hard the base finds them.

    counts  {difficulty: {gained, kept, lost, never: number of problems}}; a model solves a problem that at least half
            of its samples have right
    """

    version: str
    reference: str
    counts: dict[str, Counter[str]]


DIFFICULTIES = ("base never right", "base right up to 25%", "up to 50%", "up to 75%", "above 75%")
MOVES = ("gained", "kept", "lost", "never")


def problem_moves(run: RunRecord) -> list[Moves]:
    """For every model of the closing table with a reference in it."""
    base = run.report_set.get("base")
    if base is None:
        return []
    difficulty = dict(zip(base.problems, map(_difficulty, _shares(base).tolist()), strict=True))
    found = []
    for score in scores(run):
        mine, other = run.report_set.get(score.version), run.report_set.get(score.reference or "base")
        if mine is None or other is None or mine is other:
            continue
        compared = compare(other.correct_NK, mine.correct_NK, other.problems, mine.problems)
        counts: dict[str, Counter[str]] = {name: Counter() for name in DIFFICULTIES}
        for move in MOVES:
            for change in getattr(compared, move):
                counts[difficulty[change.id]][move] += 1
        found.append(Moves(score.version, score.reference or "base", counts))
    return found


def _difficulty(base_share: float) -> str:
    bounds = (0.0, 0.25, 0.5, 0.75)
    return next(
        (name for name, most in zip(DIFFICULTIES, bounds, strict=False) if base_share <= most),
        DIFFICULTIES[-1],
    )
