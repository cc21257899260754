"""Where a stopped process stands, by the names on its stack."""

from __future__ import annotations

import re
from dataclasses import dataclass

IMPORTS = "start-up: imports"
CREATING = "start-up: making the run folder"
READING = "start-up: reading the run"
CLOSING = "closing evaluation"
BETWEEN = "between two of these"


@dataclass(frozen=True)
class Phase:
    """
    name
    frames    "end of a file's path:function" ("*": any) of which one is on the stack
    seconds   roughly how long a process stays in it at a time
    """

    name: str
    frames: tuple[str, ...]
    seconds: float


# The first that fits counts: what is written down comes before what it is written down for.
PHASES = [
    Phase(CREATING, ("owpo/run.py:_create",), 0.1),
    Phase("checkpoint writing", ("training/session.py:save_checkpoint",), 0.02),
    Phase("gate", ("ratchet/candidate.py:_pass_gate",), 0.1),
    Phase(
        "reference move",
        (
            "ratchet/candidate.py:*",
            "ratchet/evolve.py:_take_start",
            "ratchet/evolve.py:_take_reference",
            "training/stage.py:_measure_move",
        ),
        0.05,
    ),
    Phase(CLOSING, ("ratchet/closing.py:*",), 0.15),
    Phase("keeping a version", ("runs/versions.py:add",), 0.02),
    Phase("evaluation on selection", ("training/stage.py:evaluate_and_keep_best",), 0.1),
    Phase("rollouts", ("training/rollout.py:collect_rollout",), 0.1),
    Phase("log-probs, backward, update", ("training/stage.py:_with_log_probs", "training/stage.py:_update"), 0.05),
    Phase("logs of a step", ("training/stage.py:_log_step",), 0.001),
    Phase(BETWEEN, ("ratchet/evolve.py:*",), 0.01),
    Phase(READING, ("owpo/run.py:train", "owpo/run.py:resume", "owpo/run.py:same_recipe"), 0.15),
    Phase(IMPORTS, (), 3.0),
]  # fmt: skip
BY_NAME = {phase.name: phase for phase in PHASES}

_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Stack:
    """The main thread's stack, innermost frame first: (file, line, function)."""

    frames: list[tuple[str, int, str]]

    @classmethod
    def read(cls, text: str) -> Stack:
        """From what faulthandler writes."""
        return cls([(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(text)])

    @property
    def phase(self) -> str:
        return next(phase.name for phase in PHASES if not phase.frames or self._meets(phase.frames))

    def _meets(self, frames: tuple[str, ...]) -> bool:
        for frame in frames:
            path, _, wanted = frame.partition(":")
            for file, _, function in self.frames:
                # A file that is being imported is on the stack too, and does nothing of what it is for.
                name = function.rpartition(".")[2]
                if file.endswith(path) and (name == wanted or (wanted == "*" and name != "<module>")):
                    return True
        return False

    @property
    def line(self) -> str:
        """The innermost line of the product, as "runs/checkpoints.py:75"."""
        for file, line, _ in self.frames:
            if "/owpo/" in file:
                return f"{file.rpartition('/owpo/')[2]}:{line}"
        return "outside"
