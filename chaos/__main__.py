"""python -m chaos [--kills 120] [--seed 0] [--only SCENARIO ...]: try it all, print the table; see docs/reliability.md.

Exit code 0 only where every try ended with the undisturbed run's bytes or was refused in a sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from chaos import clock, damage, disk, kills, mishaps, sharing, signals
from chaos.bench import Bench
from chaos.child import LookFailed, kill_all
from chaos.mounts import enter_namespace
from chaos.table import End, Try, failures, summary, table

_AT_A_TIME = 2
_ATTEMPTS = 3

Task = Callable[[], list[Try]]
SCENARIOS = {
    "kills": kills, "signals": signals, "disk": disk, "damage": damage,
    "clock": clock, "sharing": sharing, "mishaps": mishaps,
}  # fmt: skip


def main() -> int:
    arguments = _arguments()
    enter_namespace()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="owpo-chaos-", dir=arguments.folder))
    started = time.monotonic()
    bench = Bench(folder, arguments.seed)
    tries: list[Try] = []
    try:
        bench.prepare()
        _say(f"undisturbed runs, twice each: {time.monotonic() - started:.0f} s, in {folder}")
        for name in arguments.only or SCENARIOS:
            scenario = SCENARIOS[name]
            start = time.monotonic()
            tasks = kills.tasks(bench, arguments.kills) if name == "kills" else scenario.tasks(bench)
            done = _all(tasks)
            tries += done
            _say(f"{name}: {summary(done)} ({time.monotonic() - start:.0f} s)")
            for failure in failures(done):
                _say(f"  {failure}")
    finally:
        kill_all()
    rows = [row for name in arguments.only or SCENARIOS for row in SCENARIOS[name].ROWS]
    print(table(tries, rows))
    print(_below_the_table(arguments.seed, time.monotonic() - started))
    bench.tidy()
    return 1 if failures(tries) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=120, help="by SIGKILL, beside those in mid-recovery")
    parser.add_argument("--seed", type=int, default=0, help="of all that is chosen at random")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, help="these scenarios alone")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    return parser.parse_args()


def _all(tasks: list[Task]) -> list[Try]:
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return [each for tries in pool.map(_one, tasks) for each in tries]


def _one(task: Task) -> list[Try]:
    """A mistake of this driver fails its try, and not the table of all others."""
    try:
        for _ in range(_ATTEMPTS):
            with suppress(LookFailed):
                return task()
        raise AssertionError("every attempt died of being looked at")
    except (AssertionError, OSError, ValueError):
        return [Try("the driver itself", End.badly, traceback.format_exc())]


def _below_the_table(seed: int, seconds: float) -> str:
    lines = kills.killed_at
    told = f"Seed {seed}, {seconds / 60:.0f} minutes, {os.cpu_count()} cores."
    if lines:
        told += f" The kills lay at {len(lines)} different lines of owpo."
    return f"\n{told} {disk.how()}\n"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
