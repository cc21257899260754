"""What one setting of the step benchmark is, what both trainers are given for it, and how they take turns.

Needs nothing but the standard library: either side imports it in an environment of its own.

Shape legend: P prompts, G responses per prompt.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from measuring import cpu_seconds, peak_mib

PHASES = ("generation", "verification", "reference", "forward-backward", "other")
EOS = 1  # in the models of models.py
LEARNING_RATE = 1e-6
BETA = 1e-3  # the peer's weight of the divergence from the reference, without which it computes no log-probs of it


@dataclass(frozen=True, kw_only=True)
class Setting:
    """
    width    hidden width of the four-layer model; `vocab` its vocabulary
    new      the longest response in tokens; without `full` the mean is half of it, with `full` no response is shorter
    prompt   tokens of a prompt, which its G responses share
    flat     share of the P groups whose rewards are all equal
    updates  optimiser updates for each batch of rollouts, on its groups in equal shares
    budget   tokens of one forward-backward pass; the default is owpo's
    size     a published model's sizes in place of width and vocab: a name of `models.PUBLISHED`
    """

    name: str
    width: int = 128
    new: int = 64
    prompt: int = 16
    flat: float = 0.0
    vocab: int = 100
    full: bool = False
    updates: int = 1
    prompts: int = 16
    group_size: int = 8
    budget: int = 16384
    size: str | None = None
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def rows(self) -> int:
        return self.prompts * self.group_size

    @property
    def micro_batch_rows(self) -> int:
        """Rows of one forward-backward pass where rows are counted: an update's, halved until about the budget."""
        rows = self.rows // self.updates
        while rows % 2 == 0 and rows * (self.prompt + self.new) > math.sqrt(2) * self.budget:
            rows //= 2
        return rows

    def describe(self) -> str:
        length = f"all {self.new}" if self.full else f"up to {self.new}"
        updates = f", {self.updates} updates" if self.updates > 1 else ""
        model = self.size or f"width {self.width}, V = {self.vocab:,}"
        return (
            f"{self.name}: {model}, {self.prompts} prompts of {self.prompt} tokens x "
            f"{self.group_size} responses of {length}, {self.flat:.0%} zero-variance groups{updates}"
        )


SETTINGS = (
    Setting(name="short", new=12),
    Setting(name="medium"),
    Setting(name="medium-half", flat=0.5),
    Setting(name="medium-most", flat=0.9, prompts=20),
    Setting(name="medium-full", full=True),
    Setting(name="medium-updates", updates=4),
    Setting(name="long", new=256),
    Setting(name="long-half", new=256, flat=0.5),
    Setting(name="prompt", prompt=512, prompts=4),
    Setting(name="wide", width=512, prompts=8),
    Setting(name="wide-half", width=512, flat=0.5, prompts=8),
    Setting(name="vocabulary", vocab=152_000, prompts=4),
)
QUICK = ("short", "medium", "medium-half")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a side is started with."""

    setting: Setting
    model: str
    problems: str
    folder: str
    threads: int
    checkpointing: bool = False

    def to_argument(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_argument(text: str) -> Job:
        values = json.loads(text)
        return Job(**{**values, "setting": Setting(**values["setting"])})


def answers(setting: Setting) -> list[str]:
    """An answer for each of the P problems, which says how its group is to be rewarded: see `grade`."""
    flat = round(setting.flat * setting.prompts)
    return [f"{'flat' if n < flat else 'mixed'}-{n}" for n in range(setting.prompts)]


_asked: Counter[str] = Counter()


def grade(_response: str, answer: str) -> bool:
    """The verifier of both sides: right for a `flat` answer; else right every other time that it is asked of it.

    So half of every other group is right, whatever the responses are. It holds for one grading process.
    """
    if answer.startswith("flat"):
        return True
    _asked[answer] += 1
    return _asked[answer] % 2 == 0


class Finished(Exception):
    """The other end wants no more steps."""


class Turns:
    """A side's half of taking turns: it waits to be told, makes a step, tells what the step was, waits again.

    Whatever else writes to standard output goes to standard error meanwhile.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._channel: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._before = 0.0

    def ready(self, version: str) -> None:
        """Everything is loaded; blocks until the first step is wanted."""
        self._tell({"version": version})

    def done(self, record: dict[str, Any]) -> None:
        """A step is made; blocks until the next one is wanted. `peak_mib` is the processes' unless the record has one.

        Raises:
            Finished: none is.
        """
        self._tell({"peak_mib": peak_mib(), **record, "cpu_seconds": cpu_seconds() - self._before})

    def _tell(self, record: dict[str, Any]) -> None:
        print(json.dumps(record), file=self._channel, flush=True)
        if sys.stdin.readline().strip() != "step":
            raise Finished
        self._before = cpu_seconds()


def source_folder() -> Path:
    return Path(__file__).parents[1] / "src"
