"""The step benchmark's own side: `owpo.train`, whose display stops after every step. Started by step.py."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import step_settings
import torch
from step_settings import LEARNING_RATE, Finished, Job, Turns

from owpo.config import RunConfig
from owpo.recipes import build_config
from owpo.run import train
from owpo.training.display import Display

# Our phases under the names that both sides are shown with.
NAMES = {
    "sampling": "generation",
    "verifying": "verification",
    "reference": "reference",
    "updating": "forward-backward",
}
MANY = 10**6  # steps and evaluations that are never reached


class TurnTaking(Display):
    """The run's display; a step lasts from the end of the one before, so that nothing falls between two."""

    def __init__(self, on_cuda: bool) -> None:
        self.turns = Turns()
        self.on_cuda = on_cuda
        self.since = 0.0

    def start(self, folder: Path, stages: list[str], done: int) -> None:
        self.turns.ready(version("owpo"))
        self.since = time.perf_counter()

    def step(self, metrics: dict[str, Any], timing: dict[str, Any], num_steps: int) -> None:
        seconds = time.perf_counter() - self.since
        phases = {shown: timing.get(own, 0.0) for own, shown in NAMES.items()}
        cpu_phases = {shown: timing.get(f"{own}_cpu", 0.0) for own, shown in NAMES.items()}
        record = {
            "seconds": seconds,
            "phases": phases,
            "cpu_phases": cpu_phases,
            "tokens": metrics["sampled_tokens"],
            "mean_length": metrics["response_length"],
            "cut_share": metrics["truncated_share"],
            "flat_share": metrics["all_right_share"] + metrics["all_wrong_share"],
        }
        if self.on_cuda:
            record["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        self.turns.done(record)
        self.since = time.perf_counter()


def configuration(job: Job) -> RunConfig:
    """The run: `owpo` against its own base, everything as by default but for what the setting fixes."""
    setting = job.setting
    folder = Path(job.problems).parent
    sets = {
        name: {"kind": "jsonl", "path": str(folder / f"{name}.jsonl")} for name in ("selection", "report")
    }
    grader = Path(step_settings.__file__).resolve()
    return build_config(
        {
            "run": {
                "folder": str(Path(job.folder) / "run"),
                "threads": job.threads,
                "device": setting.device,
                "dtype": setting.dtype,
                "checkpoint_every": MANY,
            },
            "model": {"path": job.model},
            "problems": {"train": {"kind": "jsonl", "path": job.problems}, **sets},
            "verifier": {"kind": "function", "path": f"{grader}:grade", "workers": 1},
            "rollout": {
                "prompts": setting.prompts,
                "group_size": setting.group_size,
                "max_new_tokens": setting.new,
                "dynamic_sampling": False,
            },
            "objective": {"name": "owpo"},
            "training": {
                "learning_rate": LEARNING_RATE,
                "updates_per_batch": setting.updates,
                "micro_batch_tokens": setting.budget,
            },
            "ratchet": {"protocol": "fixed", "reference": "base", "steps": MANY},
            "evaluation": {"every": MANY, "samples": 1, "report_samples": 1},
        },
        "the step benchmark",
    )


def main() -> None:
    job = Job.from_argument(sys.argv[1])
    with suppress(Finished):
        train(configuration(job), display=TurnTaking(job.setting.device == "cuda"))


if __name__ == "__main__":
    main()
