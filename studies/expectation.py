"""One-way in expectation, on the models of studies/main.toml: a learner behind its reference, level with it, and ahead.

    owpo study main
    python studies/expectation.py            # 27 measurements, each in studies/results/expectation; docs/results.md

Measurements that are there are not made again. docs/expectation.md says what they are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from owpo.report.series import over_seeds

TASKS = ("chain_addition", "chain_mixed", "insertion_sort")
SEEDS = (0, 1, 2)
FLIPS = (0.0, 0.1, 0.2, 0.3)
# learner and reference, as arms of the study; "base" is what they started from, and "other" is dapo of the next seed
PAIRS = {"behind": ("base", "dapo"), "level": ("dapo", "other"), "ahead": ("dapo-120", "dapo")}
TITLES = {
    "behind": "The base, behind its reference",
    "level": "DAPO's best, level with its reference, another seed's",
    "ahead": "DAPO's best of twice the steps, ahead of its reference",
}
RULES = ("dapo", "owpo", "mopd", "opd")
STUDY = Path("runs/studies/main")
RESULTS = Path("studies/results/expectation")
_BLOCK = re.compile(r"(<!-- expectation -->\n).*?(<!-- end -->)", re.DOTALL)


def measure(task: str, pair: str, seed: int) -> None:
    from owpo import measure_expectation
    from owpo.expectation.measure import Design
    from owpo.runs.environment import code_version

    learner, reference = (_model(task, name, seed) for name in PAIRS[pair])
    design = Design(prompts=32, samples=192, flips=FLIPS, batches=32)
    like = STUDY / "runs" / f"{task}-owpo-seed{seed}"
    found = {
        "commit": (code_version() or {}).get("commit"),
        "date": datetime.now(UTC).date().isoformat(),
        **measure_expectation(learner, reference, like, design).found,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    _file(task, pair, seed).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _model(task: str, name: str, seed: int) -> Path:
    if name == "other":
        return _model(task, "dapo", (seed + 1) % len(SEEDS))
    folder = STUDY / "runs" / f"{task}-{'dapo' if name == 'base' else name}-seed{seed}"
    if name == "base":
        return folder / "versions" / "base"
    rows = json.loads((folder / "result.json").read_text())["rows"]
    return folder / "versions" / next(row["version"] for row in rows if "stage" in row)


def _file(task: str, pair: str, seed: int, results: Path = RESULTS) -> Path:
    return results / f"{task}-{pair}-seed{seed}.json"


def tables(results: Path = RESULTS) -> str:
    """What is stored, averaged over tasks, then over seeds with half a t interval."""
    stored = [json.loads(_file(*place, results).read_text()) for place in product(TASKS, PAIRS, SEEDS)]
    commits, dates = (sorted({str(each[key])[:12] for each in stored}) for key in ("commit", "date"))
    seeds = ", ".join(map(str, SEEDS))
    lines = [
        f"*`python studies/expectation.py`, seeds {seeds}, commit {', '.join(commits)}, {', '.join(dates)}*",
        "",
    ]
    for pair in PAIRS:
        found = {
            (task, seed): json.loads(_file(task, pair, seed, results).read_text())
            for task, seed in product(TASKS, SEEDS)
        }
        mean = partial(_mean, found)
        lines += [
            f"**{TITLES[pair]}**",
            "",
            f"Past it by more than 0.22 nats at {mean('contexts', 'ahead')} of tokens, short of it at "
            f"{mean('contexts', 'behind')}.",
            "",
            "| flips | reversed: owpo | mopd | expected, to clean: dapo | owpo | mopd | opd "
            "| a batch, to clean: dapo | owpo | mopd | opd | owpo over dapo |",
            "| --- " * 12 + "|",
        ]
        for flip in FLIPS:
            cells = [mean("contexts", "reversals", (rule, flip), "reversed") for rule in ("owpo", "mopd")]
            cells += [mean("updates", "rules", (rule, flip), "to_clean") for rule in RULES]
            cells += [mean("batches", "rules", (rule, flip), "cosine") for rule in RULES]
            cells.append(mean("batches", "rules", ("owpo", flip), "over_dapo"))
            lines.append(f"| {flip:.0%} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _mean(found: dict[tuple[str, int], Any], *path: str | tuple[str, float]) -> str:
    """Of what is at the path, averaged over tasks, then over seeds."""
    by_seed = [fmean(_at(found[task, seed], path) for task in TASKS) for seed in SEEDS]
    mean, half = over_seeds(by_seed)
    return f"{mean:.3f} ± {half:.3f}"


def _at(found: Any, path: Iterable[str | tuple[str, float]]) -> float:
    """A pair chooses the row of a rule and a flip; of a mean with its interval the mean."""
    for step in path:
        if isinstance(step, tuple):
            found = next(row for row in found if (row["rule"], row["flip"]) == step)
        else:
            found = found[step]
    return float(found[0] if isinstance(found, list) else found)


def filled(page: str, results: Path = RESULTS) -> str:
    return _BLOCK.sub(lambda block: f"{block[1]}{tables(results)}{block[2]}", page)


if __name__ == "__main__":
    for place in product(TASKS, PAIRS, SEEDS):
        if not _file(*place).exists():
            print(*place, file=sys.stderr, flush=True)
            measure(*place)
    page = Path("docs/results.md")
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
