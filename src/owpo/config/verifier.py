"""How responses are judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from owpo.config.section import PathString, Section

_LIMITS = ("workers", "timeout", "memory_mb")


class _Verifier(Section):
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest share of a step's verdicts that may be timeouts or errors; above it the run stops, with examples."""
    max_unparseable_rise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How far the share of unparseable responses in a step may rise above the run's first step, before it stops."""
    flip_correct: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that training is told "wrong" of a correct response: noise on purpose. Evaluations are not."""
    flip_wrong: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that training is told "correct" of a response that is not."""

    def spec(self) -> dict[str, Any]:
        """What `verify.graders.build_grader` makes a grader of."""
        return self.model_dump(mode="json", exclude={*_Verifier.model_fields, *_LIMITS})

    def limits(self) -> dict[str, Any]:
        """Of the processes that the grader runs in; empty where it needs none."""
        return self.model_dump(mode="json", include=set(_LIMITS))


class _ProcessVerifier(_Verifier):
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Grading processes; None: one a core, at most 8."""
    timeout: Annotated[float, Field(gt=0, le=86400)] = 5.0
    """Seconds of work on one response after which its process is killed."""
    memory_mb: Annotated[int, Field(ge=256)] = 1024
    """Memory (address space) that one grading process may take on top of the loaded grader, in MiB."""


class ExactVerifier(_Verifier):
    kind: Literal["exact"]
    take: Literal["whole", "last_line", "last_number"] = "last_number"
    """The part of a response that must be the answer, character by character; the last number by value."""


class NumericVerifier(_ProcessVerifier):
    kind: Literal["numeric"]
    tolerance: Annotated[float, Field(ge=0)] = 1e-6
    """Largest relative error; absolute where the answer is 0."""


class MathVerifier(_ProcessVerifier):
    kind: Literal["math"]


class ChoiceVerifier(_ProcessVerifier):
    kind: Literal["choice"]


class FunctionVerifier(_ProcessVerifier):
    kind: Literal["function"]
    path: PathString
    """Your own function (response, answer) -> bool, as "module:function" or "path/to/file.py:function"."""


VerifierConfig = Annotated[
    ExactVerifier | NumericVerifier | MathVerifier | ChoiceVerifier | FunctionVerifier,
    Field(discriminator="kind"),
]
