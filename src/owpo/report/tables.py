"""What a run came to and how it was made, as sentences and as tables of text."""

from __future__ import annotations

import shlex
from typing import Any

from owpo.report.record import Record, RunRecord
from owpo.report.summary import Score, scores


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(low: float, high: float) -> str:
    return f"{_points(low)} to {_points(high)}"


def _gain(gain: tuple[float, float, float] | None) -> str:
    return "" if gain is None else f"{100 * gain[0]:+.1f} ({100 * gain[1]:+.1f} to {100 * gain[2]:+.1f})"


def headline(run: RunRecord) -> str:
    """From where to where, in one sentence."""
    rows = scores(run)
    last: Score | None = next((row for row in reversed(rows) if row.role.startswith("best of")), None)
    if last is None:
        return ""
    told = f"{last.version}: {_points(last.accuracy)}% right (95% interval {_interval(last.low, last.high)})"
    if last.since_base is None:
        return f"{told} on the {last.set} set, the {last.role}."
    base = rows[0]
    return (
        f"From {_points(base.accuracy)}% (the base) to {_points(last.accuracy)}% ({last.version}) on the report set: "
        f"{_gain(last.since_base)} points, paired on the same problems."
    )


def answer(run: RunRecord) -> Record:
    rows = scores(run)
    return {
        "columns": [
            "model", "what it is", "by", "against", "right, %", "95% interval", "points over the base",
            "over what it learned against",
        ],
        "rows": [
            [
                row.version, row.role, row.by or "", row.reference or "", _points(row.accuracy),
                _interval(row.low, row.high), _gain(row.since_base), _gain(row.against),
            ]
            for row in rows
        ],
        "note": _answer_note(run),
    }  # fmt: skip


def _answer_note(run: RunRecord) -> str:
    if run.result is None:
        return (
            "On the selection set, by which each stage's best is chosen: the best of several looks better than it is. "
            "The report set is measured when the run is done."
        )
    first = run.result["rows"][0]
    note = (
        f"Report set: {first['num_problems']} problems, {first['samples_per_problem']} samples each; intervals over "
        f"problems, differences paired. Reference in place at the end: {run.result['in_force'] or 'none'}."
    )
    chosen = run.result["selection"]
    if chosen is not None:
        note += (
            f" {chosen['shared_problems']} of these problems are also in the selection set: were all checkpoints "
            f"equally good, the chosen one would still look {_points(chosen['inflation'])} points better than it is."
        )
    return note


def lineage(run: RunRecord) -> Record:
    rows = []
    for record in run.lineage:
        measured = ["", "", "", "", ""]
        if "drift" in record:
            near, first = record["drift"]["reference"], record["drift"]["first"]
            measured = [
                _points(record["accuracy"]), _interval(record["low"], record["high"]),
                f"{near['kl']:.3f}", f"{first['kl']:.3f}", f"{near['abs_delta']:.3f}",
            ]  # fmt: skip
        decision = "accepted" if record["accepted"] else "refused"
        reasons = "; ".join(record["reasons"])
        rows.append(
            [record["candidate"], record["parent"] or "", *measured, decision, reasons, record["hash"][:12]]
        )
    columns = [
        "candidate", "parent", "right, %", "95% interval", "KL to the reference", "KL to the first", "mean |δ|",
        "decision", "why", "weights",
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}


def moves(run: RunRecord) -> Record:
    """What each new reference did to the weights of a stage's first responses: moves.jsonl."""
    rows = []
    for record in run.moves:
        for side, reference in (("before", "the outgoing one"), ("after", record["reference"])):
            found = record[side]
            if found is not None:
                shares = [found.get(name) for name in ("neutral", "accelerated", "locked", "saturated")]
                rows.append(
                    [
                        str(record["stage"]), record["learner_from"], reference, f"{found['delta']:+.3f}",
                        f"{found['abs_delta']:.3f}", f"{found['kl']:.3f}",
                        *("" if share is None else f"{_points(share)}%" for share in shares),
                    ]
                )  # fmt: skip
    columns = [
        "stage", "learner", "held against", "mean δ", "mean |δ|", "KL", "w = 1", "accelerated", "locked", "saturated",
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}


def alarms(run: RunRecord) -> Record:
    names = list(dict.fromkeys(name for record in run.alarms for name in record))
    return {"columns": names, "rows": [[_plain(record.get(name)) for name in names] for record in run.alarms]}


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def made(run: RunRecord) -> list[list[str]]:
    config = run.config
    rows = [
        ["run folder", str(run.folder)],
        ["model", config.model.path + (f" at {config.model.revision}" if config.model.revision else "")],
        ["objective", config.objective.name],
        ["reference", config.ratchet.protocol],
        ["seed", str(config.seed)],
        ["verifier", config.verifier.kind],
        ["plan", "; ".join(map(str, run.plan))],
        ["starts", str(len(run.starts))],
    ]
    if run.starts:
        last = run.starts[-1]
        code = last.get("code")
        local = " with local changes" if code and code["modified"] else ""
        packages = ("python", "torch", "transformers", "tokenizers", "peft", "vllm")
        versions = ", ".join(f"{name} {last[name]}" for name in packages if last.get(name))
        machine = f"{last['platform']}, {last['cpu_count']} cores, {last['threads']} threads"
        rows += [
            ["code", f"owpo {last['owpo']}" + (f", commit {code['commit'][:12]}{local}" if code else "")],
            ["versions", versions],
            ["machine", f"{machine}, {last['cuda']}" if last["cuda"] else machine],
            ["command", shlex.join(last["command"])],
        ]
    return rows


def reproduce(run: RunRecord) -> str:
    again = run.folder.with_name(f"{run.folder.name}-again")
    return shlex.join(["owpo", "train", str(run.folder / "config.json"), "--run.folder", str(again)])
