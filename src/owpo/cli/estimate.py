"""What `owpo check` tells of a run's memory and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from owpo.config import RunConfig
from owpo.errors import InputError
from owpo.estimate.fit import Room, process_bytes, refusal, room_on
from owpo.estimate.memory import (
    MemoryEstimate,
    estimate_memory,
    gibibytes,
    models_of,
    prompt_tokens_of,
)
from owpo.estimate.seconds import StepSeconds, estimate_seconds
from owpo.estimate.shape import NoEstimate


@dataclass(frozen=True)
class Estimates:
    """`missing` says why there is no memory, or where there is some, no time; `refusal`, why the run cannot fit."""

    memory: MemoryEstimate | None
    room: Room
    seconds: list[StepSeconds]
    missing: str | None = None
    refusal: str | None = None

    def to_json(self) -> dict[str, Any]:
        memory = None
        if self.memory is not None:
            memory = {
                "parameters": self.memory.parameters,
                "prompt_tokens": self.memory.prompt_tokens,
                "free_bytes": self.room.free,
                "peak_bytes": self.memory.fullest.total,
                "phases": {phase.name: {**phase.items, "total": phase.total} for phase in self.memory.phases},
            }
        seconds = [{**asdict(step), "total": step.total} for step in self.seconds]
        return {"memory": memory, "seconds": seconds, "missing": self.missing, "refusal": self.refusal}


def estimates_of(
    config: RunConfig, *, prompt_tokens: int | None, response_tokens: int | None, with_time: bool
) -> Estimates:
    """
    Raises:
        InputError: a number of tokens is not positive, or the responses are longer than the recipe allows.
    """
    longest = config.rollout.max_new_tokens
    if prompt_tokens is not None and prompt_tokens < 1:
        raise InputError(f"--prompt-tokens must be at least 1, got {prompt_tokens}")
    if response_tokens is not None and not 1 <= response_tokens <= longest:
        raise InputError(
            f"--response-tokens must lie between 1 and rollout.max_new_tokens = {longest}, got {response_tokens}"
        )
    room = room_on(config.run.device)
    try:
        models = models_of(config)
        tokens = prompt_tokens_of(config, models, prompt_tokens)
        process = process_bytes() if config.run.device == "cpu" else 0
        memory = estimate_memory(config, models, prompt_tokens=tokens, process=process)
    except NoEstimate as error:
        return Estimates(None, room, [], missing=str(error))
    seconds: list[StepSeconds] = []
    missing = None
    if with_time:
        lengths = [longest, *([longest // 2] if longest > 1 else [])]
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        try:
            if config.run.device == "cuda" and not torch.cuda.is_available():
                raise NoEstimate("no CUDA device is here to time them on")
            for length in lengths if response_tokens is None else [response_tokens]:
                seconds.append(
                    estimate_seconds(
                        config, models, prompt_tokens=tokens, response_tokens=length, free=room.free
                    )
                )
        except NoEstimate as error:
            missing = str(error)
    return Estimates(memory, room, seconds, missing, refusal(config, models, memory, room))


def show_estimates(estimates: Estimates) -> None:
    """The tables, or the sentence that says why there are none."""
    memory = estimates.memory
    if memory is None:
        print(f"There is no estimate of memory and time, because {estimates.missing}")
        return
    table = Table(
        title=f"memory, {memory.parameters:,} parameters, prompts of up to {memory.prompt_tokens} tokens",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False,
    )  # fmt: skip
    table.add_column("")
    names = dict.fromkeys(name for phase in memory.phases for name in phase.items)
    for phase in memory.phases:
        table.add_column(phase.name, justify="right", no_wrap=True)
    for name in names:
        sizes = (phase.items.get(name) for phase in memory.phases)
        table.add_row(name, *("-" if size is None else gibibytes(size) for size in sizes))
    table.add_section()
    table.add_row("together", *(gibibytes(phase.total) for phase in memory.phases))
    console = Console()
    console.print(table)
    free = "" if estimates.room.free is None else f"{gibibytes(estimates.room.free)} "
    print(f"{free}{estimates.room.where}; docs/memory.md says what each part is\n")
    for step in estimates.seconds:
        print(
            f"a step takes {step.total:.2f} s where responses have {step.response_tokens} tokens: sampling "
            f"{step.sampling:.2f}, scoring {step.scoring:.2f}, updating {step.update:.2f}"
        )
    if estimates.missing is not None:
        print(f"There is no estimate of time, because {estimates.missing}")
