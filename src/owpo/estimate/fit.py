"""Whether a run fits into what the machine has, and which entry of the recipe to turn where it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from owpo.config import RunConfig
from owpo.errors import InputError
from owpo.estimate.memory import (
    MemoryEstimate,
    Models,
    estimate_memory,
    gibibytes,
    micro_batch_of,
    models_of,
    prompt_tokens_of,
    surely_below,
)
from owpo.estimate.shape import NoEstimate

_SMALLEST_BATCH = 8
# Where a bound that is far too high stays below this share of the room, nothing has to be traced.
_SURE_SHARE = 0.25


@dataclass(frozen=True)
class Room:
    """Bytes that models and their work may take, and where; None: not known here."""

    free: int | None
    where: str


def room_on(device: str) -> Room:
    if device == "cuda":
        if not torch.cuda.is_available():
            return Room(None, "no CUDA device is here")
        return Room(torch.cuda.mem_get_info()[0], "free on the CUDA device")
    known = [size for size in (_available(), _below_limit()) if size is not None]
    return Room(min(known) if known else None, "free in this machine's memory")


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS tells no more
    except (ValueError, OSError):
        return None


def _below_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves; file pages that it holds are given back where they are needed."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int((root / limit).read_text(encoding="ascii"))
            now = int((root / used).read_text(encoding="ascii"))
            statistics = (root / limit).with_name("memory.stat").read_text(encoding="ascii").split()
        except (OSError, ValueError):  # none there, or "max"
            continue
        pages = dict(zip(statistics[::2], statistics[1::2], strict=False))
        return most - now + int(pages.get("inactive_file", 0)) + int(pages.get("active_file", 0))
    return None


def process_bytes() -> int:
    """What this process has in memory now; 0 where it cannot be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_memory(config: RunConfig, *, prompt_tokens: int | None) -> str | None:
    """Before a run: `refusal`, where it cannot fit and the recipe asks for no more than a warning.

    None: it fits, is far below what there is (then nothing is traced), or its memory cannot be known.

    Args:
        prompt_tokens: of the longest prompt; None: assumed.

    Raises:
        InputError: it cannot fit.
    """
    try:
        models = models_of(config)
        tokens = prompt_tokens_of(config, models, prompt_tokens)
        room = room_on(config.run.device)
        if room.free is None or surely_below(config, models, tokens, int(_SURE_SHARE * room.free)):
            return None
        estimate = estimate_memory(config, models, prompt_tokens=tokens)
        sentence = refusal(config, models, estimate, room)
    except NoEstimate:
        return None
    if sentence is not None and config.run.memory_check == "refuse":
        raise InputError(f"{sentence}. To start it all the same, set run.memory_check to 'warn'")
    return sentence


def refusal(config: RunConfig, models: Models, estimate: MemoryEstimate, room: Room) -> str | None:
    """Why the run cannot fit and what makes it fit, in two sentences; None where it does.

    The process is here already: what it takes is not asked for again.
    """
    if room.free is None or _asked(estimate) <= room.free:
        return None
    phase = estimate.fullest
    items = sorted(((size, name) for name, size in phase.items.items() if name != "process"), reverse=True)
    largest = ", ".join(f"{name} {gibibytes(size)}" for size, name in items[:3])
    return (
        f"the run is expected to take {gibibytes(_asked(estimate))} while it is at its fullest ({phase.name}), but "
        f"only {gibibytes(room.free)} are {room.where}. The largest parts: {largest}. "
        f"{_mend(config, models, estimate, room.free)}"
    )


def _asked(estimate: MemoryEstimate) -> int:
    return max(phase.total - phase.items.get("process", 0) for phase in estimate.phases)


def _mend(config: RunConfig, models: Models, estimate: MemoryEstimate, free: int) -> str:
    """The first single change of the recipe that makes it fit, else the changes that do so together."""

    def asked(changes: dict[str, Any]) -> int:
        changed = with_changes(config, changes)
        tokens = prompt_tokens_of(changed, models, estimate.prompt_tokens)
        return _asked(estimate_memory(changed, models, prompt_tokens=tokens))

    for change in _single_changes(config, estimate):
        if (size := asked(change)) <= free:
            return f"{_named(change)} makes it fit, at {gibibytes(size)}"
    together: dict[str, Any] = {}
    for change in _strongest_changes(config, estimate.prompt_tokens):
        together |= change
        if together and (size := asked(together)) <= free:
            return f"{_named(together)} make it fit, at {gibibytes(size)}"
    what = "model" if models.reference is None else "model, or an objective that reads no reference"
    told = f" even with {_named(together)}" if together else ""
    return f"Nothing but a smaller {what} makes it fit{told}: {gibibytes(asked(together))} are needed"


def with_changes(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The recipe with other values at dotted places."""
    for place, value in changes.items():
        section, key = place.split(".")
        part = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: part})
    return config


def _single_changes(config: RunConfig, estimate: MemoryEstimate) -> Iterator[dict[str, Any]]:
    """Those first that cost least and reach the fullest phase; each halved until it can be halved no more."""
    rollout, training = config.rollout, config.training
    tokens = estimate.prompt_tokens
    slots = min(rollout.batch_size, rollout.prompts * rollout.group_size)
    batch_sizes: list[dict[str, Any]] = [
        {"rollout.batch_size": size} for size in _halves(slots, _SMALLEST_BATCH)
    ]
    (prompts, group), _ = micro_batch_of(config, tokens)
    used = prompts * (tokens + group * rollout.max_new_tokens)
    smallest = tokens + rollout.max_new_tokens
    micro: list[dict[str, Any]] = [
        {"training.micro_batch_tokens": size}
        for size in _halves(min(training.micro_batch_tokens, used), smallest)
    ]
    recomputing: list[dict[str, Any]] = (
        [] if training.gradient_checkpointing else [{"training.gradient_checkpointing": True}]
    )
    if estimate.fullest.name == "sampling":
        yield from batch_sizes
    else:
        yield from (*micro, *recomputing)
    if config.run.dtype == "float32":
        yield {"run.dtype": "bfloat16"}
    yield from ({"rollout.max_new_tokens": size} for size in _halves(rollout.max_new_tokens, 1) if size >= 64)


def _strongest_changes(config: RunConfig, prompt_tokens: int) -> Iterator[dict[str, Any]]:
    rollout, training = config.rollout, config.training
    smallest = prompt_tokens + rollout.max_new_tokens
    if training.micro_batch_tokens > smallest:
        yield {"training.micro_batch_tokens": smallest}
    if rollout.batch_size > _SMALLEST_BATCH:
        yield {"rollout.batch_size": _SMALLEST_BATCH}
    if not training.gradient_checkpointing:
        yield {"training.gradient_checkpointing": True}
    if config.run.dtype == "float32":
        yield {"run.dtype": "bfloat16"}


def _halves(value: int, smallest: int) -> list[int]:
    sizes = []
    while value > smallest:
        value = max(value // 2, smallest)
        sizes.append(value)
    return sizes


def _named(changes: dict[str, Any]) -> str:
    values = {
        place: str(value).lower() if isinstance(value, bool) else value for place, value in changes.items()
    }
    return " and ".join(f"{place} = {value}" for place, value in values.items())
