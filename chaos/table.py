"""What came of every try, and the table of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """
    same     the run went on and ended with the bytes of the undisturbed one
    refused  a sentence and exit code 1 or 2; nothing was changed by it, and once the trouble was taken away the run
             ended with the same bytes
    badly    the state is whole, but what was said was no sentence, the exit code wrong, or a process was left behind
    lost     other bytes in the end, or a run that cannot go on
    """

    same = "same"
    refused = "refused"
    badly = "badly"
    lost = "lost"


@dataclass(frozen=True)
class Try:
    """One interruption or damage. `note` says where and what, for ends that are not good."""

    row: str
    end: End
    note: str = ""


def table(tries: Sequence[Try], rows: Sequence[str]) -> str:
    """Markdown, a line for each of `rows`; tries of other rows follow."""
    lines = [
        "| what was tried | times | same end | refused in a sentence | told badly | lost or not noticed |",
        "|---|---|---|---|---|---|",
    ]
    rows = list(dict.fromkeys([*rows, *(each.row for each in tries)]))
    for row in rows:
        lines.append(_line(row, Counter(each.end for each in tries if each.row == row)))
    lines.append(_line("**all**", Counter(each.end for each in tries)))
    return "\n".join(lines)


def _line(name: str, counts: Counter[End]) -> str:
    return " | ".join([f"| {name}", str(counts.total()), *(str(counts[end]) for end in End)]) + " |"


def summary(tries: Sequence[Try]) -> str:
    """All of them as one phrase."""
    counts = Counter(each.end for each in tries)
    return f"{counts.total()} tries: " + ", ".join(f"{counts[end]} {end}" for end in End if counts[end])


def failures(tries: Sequence[Try]) -> list[str]:
    """What is not well, each once: tries of one run share its end."""
    told = [f"{each.row}: {each.end}: {each.note}" for each in tries if each.end in (End.badly, End.lost)]
    return list(dict.fromkeys(told))
