"""What was found, as tables for a terminal and a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Table(NamedTuple):
    """`rows` have a cell a heading; the first is a name."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    note: str


def tables_of(found: dict[str, Any]) -> list[Table]:
    """
    Args:
        found: `Expectation.found`.
    """
    return [_contexts(found["contexts"]), _updates(found["updates"]), _batches(found["batches"])]


def markdown(found: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    parts = [f"# One-way in expectation\n\n{settings}; {found['accuracy']:.1%} of the responses are correct."]
    for table in tables_of(found):
        lines = [
            table.headings,
            ["---", *["---:"] * (len(table.headings) - 1)],
            *table.rows,
        ]
        grid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {table.title}\n\n{grid}\n\n{table.note}")
    return "\n\n".join(parts) + "\n"


def _contexts(found: dict[str, Any]) -> Table:
    past = f"{found['past']:.2f} nats"
    return Table(
        "Tokens whose mean update runs against the verifier's mean direction",
        *_grid(found["reversals"], _reversed_cell),
        f"Estimate (what is sure by 95% intervals). Of {found['tokens']} tokens {_percent(found['covered'])} "
        f"stand in the {found['contexts']} contexts with {found['min_visits']} visits or more. Of these the policy is "
        f"ahead of its reference by more than {past} at {_percent(found['ahead'])} and behind at "
        f"{_percent(found['behind'])}; {_percent(found['directed'])} have a mean direction, and are what is counted.",
    )


def _updates(found: dict[str, Any]) -> Table:
    headings, rows = _grid(
        found["rules"], lambda row: f"{_number(row['to_clean'])} ({_number(row['to_clean_corrected'])})"
    )
    own = [row for row in found["rules"] if row["rule"] == "owpo"]
    rows.append(
        [
            "owpo to dapo",
            *[f"{_number(row['to_dapo'])} ({_number(row['to_dapo_corrected'])})" for row in own],
        ]
    )
    return Table(
        "Expected update: cosine with DAPO's under a verifier without errors",
        headings,
        rows,
        "On this sample (corrected for its noise); the last row is with DAPO's at the same flip. The two halves of the "
        f"sample agree on the clean gradient by a cosine of {_number(found['agreement'])}.",
    )


def _batches(found: dict[str, Any]) -> Table:
    headings, rows = _grid(found["rules"], lambda row: _interval(row["cosine"]))
    for rule in ("owpo", "mopd", "opd"):
        own = [row for row in found["rules"] if row["rule"] == rule]
        rows.append([f"{rule} - dapo", *[_interval(row["over_dapo"], "+.3f") for row in own]])
    fewest = min(row["batches"] for row in found["rules"] if row["rule"] == "dapo")
    return Table(
        f"One batch of {found['prompts']} prompts x {found['group_size']} responses: cosine with the clean gradient",
        headings,
        rows,
        f"Means with 95% intervals over at least {fewest} batches, each against the half of the sample that it is not "
        "drawn from; differences are paired.",
    )


def _grid(
    found: list[dict[str, Any]], cell: Callable[[dict[str, Any]], str]
) -> tuple[list[str], list[list[str]]]:
    """A row a rule, a column a flip."""
    flips = list(dict.fromkeys(row["flip"] for row in found))
    rules = list(dict.fromkeys(row["rule"] for row in found))
    by_place = {(row["rule"], row["flip"]): cell(row) for row in found}
    rows = [[rule, *[by_place[rule, flip] for flip in flips]] for rule in rules]
    return ["", *[f"flip {flip:g}" for flip in flips]], rows


def _reversed_cell(row: dict[str, Any]) -> str:
    return f"{_percent(row['reversed'])} ({_percent(row['surely'])})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(found: list[float] | None, form: str = ".3f") -> str:
    if found is None:
        return "-"
    mean, low, _ = found
    return f"{mean:{form}} ±{mean - low:.3f}"
