"""owpo's verifiers in the form that hosts take reward functions in."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from owpo.errors import InputError, input_errors
from owpo.verify.verdict import FAILURES, Verdict
from owpo.verify.verifier import Verifier, open_verifier


def verifier_reward(
    kind: str,
    *,
    column: str = "answer",
    workers: int | None = None,
    timeout: float = 5.0,
    memory_mb: int = 1024,
    **spec: Any,
) -> Callable[..., list[float | None]]:
    """One of owpo's verifiers as a reward function of TRL: 1 for correct, 0 for wrong and unparseable, None (TRL leaves
    the response out) where the verifier was killed at its deadline or failed.

    Args:
        kind: "math", "numeric", "exact", ... (docs/verifiers.md); `spec` are its settings, such as take="last_number".
        column: of the data set, with the expected answer.
        workers, timeout, memory_mb: see `owpo.verify.verifier.open_verifier`.
    """
    with input_errors("verifier"):
        verifier = open_verifier(
            {"kind": kind, **spec}, workers=workers, timeout=timeout, memory_mb=memory_mb
        )

    def reward(completions: list[Any], **columns: Any) -> list[float | None]:
        if column not in columns:
            raise InputError(f"the data set has no column {column!r} with the expected answers")
        texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
        judgements = verifier.submit(texts, [str(answer) for answer in columns[column]]).result()
        return [None if j.verdict in FAILURES else float(j.verdict is Verdict.correct) for j in judgements]

    reward.__name__ = f"{kind}_verifier"
    return reward


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Any = None,
    *,
    kind: str,
    workers: int | None = None,
    timeout: float = 5.0,
    memory_mb: int = 1024,
    **spec: Any,
) -> dict[str, Any]:
    """One of owpo's verifiers as verl's `custom_reward_function`, its settings in `reward_kwargs`.

    Returns:
        score, acc: 1 for correct, else 0; dynamic sampling filters on `acc`, which no length penalty touches.
        verdict: what was decided, or why nothing was.
    """
    settings = json.dumps({"kind": kind, **spec}, sort_keys=True)
    verifier = _verifier(settings, workers, timeout, memory_mb)
    (judgement,) = verifier.submit([solution_str], [str(ground_truth)]).result()
    right = float(judgement.verdict is Verdict.correct)
    return {"score": right, "acc": right, "verdict": judgement.verdict.value}


@cache
def _verifier(settings: str, workers: int | None, timeout: float, memory_mb: int) -> Verifier:
    """One a process, however many threads ask."""
    with input_errors("reward_kwargs"):
        return open_verifier(json.loads(settings), workers=workers, timeout=timeout, memory_mb=memory_mb)
