"""What a step leaves behind: its numbers, its seconds, a sample of its responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from owpo.clock import PhaseClock
from owpo.evaluation.answers import Groups
from owpo.training.update import TrainingRows, UpdateResult


def merge_updates(results: list[UpdateResult]) -> dict[str, float | int | None]:
    """A step's updates as one set of numbers: token statistics over the tokens that have them, else over updates."""
    taken = [r for r in results if r.bad is None and r.num_tokens > 0]
    merged: dict[str, float | int | None] = {
        "updates": len(taken),
        "bad_updates": sum(r.bad is not None for r in results),
        "trained_tokens": sum(r.num_tokens for r in taken),
        "loss": sum(r.loss for r in taken) / len(taken) if taken else None,
        "grad_norm": sum(r.grad_norm for r in taken) / len(taken) if taken else None,
    }
    for name in {name: None for result in taken for name in result.stats}:
        totals = [result.stats[name] for result in taken if name in result.stats]
        count = sum(total.count for total in totals)
        merged[name] = sum(total.sum for total in totals) / count if count else None
    return merged


def some_rollouts(
    groups: Groups, noisy_PG: Tensor | None, rows: TrainingRows, count: int
) -> Iterator[dict[str, Any]]:
    """The first `count` responses, spread over groups: response 0 of every prompt, then response 1, ...

    Args:
        noisy_PG: [P, G] bool, whether training took a response for correct; None where that is the verdict.
    """
    size = groups.group_size
    order = [p * size + g for g in range(size) for p in range(len(groups.problems))]
    for row in order[:count]:
        problem = groups.problems[row // size]
        yield {
            "problem": problem.id,
            "prompt": problem.prompt,
            "response": groups.texts[row],
            "answer": problem.answer,
            "verdict": str(groups.judgements[row].verdict),
            **({} if noisy_PG is None else {"rewarded": bool(noisy_PG.flatten()[row])}),
            "read": groups.judgements[row].answer,
            "detail": groups.judgements[row].detail,
            "advantage": rows.advantage[row].item(),
            "active": bool(rows.active[row]),
            "tokens": int(groups.responses.lengths[row]),
            "truncated": bool(groups.responses.truncated[row]),
        }


def timing_of(clock: PhaseClock, sampled_tokens: int) -> dict[str, float]:
    """A step's seconds: by phase on the wall, the same of the processor (`_cpu`), and of the whole step up to now."""
    seconds, cpu_seconds = clock.total()
    return {
        **clock.seconds,
        **{f"{phase}_cpu": spent for phase, spent in clock.cpu_seconds.items()},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens_per_second": sampled_tokens / seconds,
    }
