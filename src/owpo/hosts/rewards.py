"""owpo's verifiers in the form that hosts take reward functions in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from owpo.errors import InputError, input_errors
from owpo.verify.verdict import FAILURES, Verdict
from owpo.verify.verifier import open_verifier


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
