"""A problem: what the policy is asked, and what the verifier holds the response against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A prompt with its true answer.

    id          unique in its set
    prompt      the text that the policy continues, with any template already applied
    answer      in the form that the run's verifier expects (`owpo.problems.verify`)
    difficulty  a grade whose scale belongs to the source; None where the source has none
    extra       whatever else came with the problem; nothing here reads it
    """

    id: str
    prompt: str
    answer: str
    difficulty: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
