"""The token records that the page's viewer is given: within a budget of bytes, thinned evenly where there are more."""

from __future__ import annotations

import json
from typing import Any

from owpo.report.record import Record, RunRecord

_FIELDS = (
    "kind", "stage", "step", "problem", "prompt", "answer", "verdict", "read", "advantage", "reference", "pieces",
    "logp", "ref_logp", "delta", "weight", "entropy",
)  # fmt: skip
_DIGITS = 4
_LONGEST_PROMPT = 4000  # characters
_HEAD_BYTES, _TOKEN_BYTES = 300, 50  # of a record, about: what is left out is not written to be measured


def viewer_records(run: RunRecord, budget: int) -> list[Record]:
    """Records in the run's order, as JSON of at most `budget` bytes.

    Kept first are the watched problems at each stage's ends, then all records of every 2nd, 4th, ... step, whatever
    fits; of what is too much even so, the first ones.
    """
    sizes = [_HEAD_BYTES + _TOKEN_BYTES * len(record["pieces"]) for record in run.tokens]
    places = [(record["stage"], record["step"]) for record in run.tokens]
    order = {place: number for number, place in enumerate(dict.fromkeys(places))}
    last_of = {stage: (stage, step) for stage, step in sorted(order)}
    ends = {*places[:1], *last_of.values()}
    kept = list(range(len(places)))
    every = 1
    while sum(sizes[i] for i in kept) > budget and every <= len(order):
        every *= 2
        kept = [
            i
            for i, place in enumerate(places)
            if order[place] % every == 0 or (place in ends and run.tokens[i]["kind"] == "watched")
        ]
    total, fitting = 0, []
    for record in (_shortened(run.tokens[i]) for i in kept):
        total += len(json.dumps(record))
        if total > budget:
            break
        fitting.append(record)
    return fitting


def _shortened(record: Record) -> Record:
    def rounded(value: Any) -> Any:
        return [None if each is None else round(each, _DIGITS) for each in value]

    kept = {name: record[name] for name in _FIELDS if name in record}
    kept |= {name: rounded(kept[name]) for name in _FIELDS[-5:] if name in kept}
    if len(kept["prompt"]) > _LONGEST_PROMPT:
        kept["prompt"] = f"{kept['prompt'][:_LONGEST_PROMPT]} ... ({len(kept['prompt'])} characters)"
    return kept
