"""Every sample of an evaluation, a line each: what was measured can be read again, and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from owpo.disk.logs import JSONLLog
from owpo.disk.sealed import sealed_record, unsealed_record
from owpo.engines.engine import Sampler
from owpo.errors import InputError
from owpo.evaluation.answers import Answers, Sampling, answer_batches
from owpo.evaluation.guard import check_failures
from owpo.problems.problem import Problem
from owpo.verify.verdict import FAILURES, Judgement, Verdict
from owpo.verify.verifier import Verifier

# How far rows take the places of others: an evaluation that goes on begins at such a boundary.
_POOL_BATCHES = 8
_FEWEST = 100  # verdicts before their share of failures is looked at; at the end of a set it always is


@dataclass(frozen=True)
class Sample:
    """One response to one problem.

    sample     its number among the problem's, from 0
    answer     the response's answer as the verifier read it; None where there was none
    detail     what went wrong, for the verdicts timeout and error
    tokens     length of the response, EOS included
    truncated  whether it ran out of room
    """

    problem: str
    sample: int
    response: str
    verdict: Verdict
    answer: str | None
    detail: str | None
    tokens: int
    truncated: bool

    def to_json(self) -> dict[str, Any]:
        """A line of the file, with its seal."""
        return sealed_record(asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sample:
        """
        Raises:
            ValueError, TypeError, KeyError: it is not what `to_json` gave.
        """
        fields = unsealed_record(data)
        return cls(**{**fields, "verdict": Verdict(fields["verdict"])})


def samples_of(
    answers: Answers, problems: list[Problem], group_size: int, first_row: int = 0
) -> list[Sample]:
    """The rows of `answers`, which are rows first_row, first_row + 1, ... of all responses to `problems`."""
    lengths, truncated = answers.responses.lengths.tolist(), answers.responses.truncated.tolist()
    return [
        Sample(
            problem=problems[(first_row + i) // group_size].id,
            sample=(first_row + i) % group_size,
            response=text,
            verdict=judgement.verdict,
            answer=judgement.answer,
            detail=judgement.detail,
            tokens=lengths[i],
            truncated=truncated[i],
        )
        for i, (text, judgement) in enumerate(zip(answers.texts, answers.judgements, strict=True))
    ]


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file, in order; a last line that a kill cut short is left out.

    Raises:
        InputError: it holds something else.
    """
    try:
        return [Sample.from_json(record) for record in JSONLLog(path).records()]
    except (ValueError, TypeError, KeyError) as error:
        reason = error.__cause__ if isinstance(error, InputError) else error
        raise InputError(
            f"{path} is damaged ({reason}); remove it, and its samples are drawn again"
        ) from error


def draw_samples(
    path: Path,
    sampler: Sampler,
    problems: list[Problem],
    verifier: Verifier,
    sampling: Sampling,
    *,
    max_failed_share: float,
    judge_again: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> list[Sample]:
    """All samples of all problems, from the file as far as it has them; new ones are added to it batch by batch.

    The file must be of the same policy, problems and sampling. A batch that was cut short is drawn again, so an
    interrupted evaluation ends with the same samples as one that was not. Samples on which the verifier had failed are
    judged again: it may have been mended.

    Args:
        judge_again: all samples of the file, not only those.

    Raises:
        InputError: the file is damaged.
        RunFailed: more than `max_failed_share` of the verdicts are timeouts or errors. The samples are kept.
    """
    log, num_samples = JSONLLog(path), len(problems) * sampling.group_size
    samples = read_samples(path)
    check_rows(path, samples, problems, sampling.group_size)
    if len(samples) < num_samples:
        samples = samples[: len(samples) // sampling.batch_size * sampling.batch_size]
        log.keep(len(samples))
    stale = [i for i, sample in enumerate(samples) if judge_again or sample.verdict in FAILURES]
    if stale:
        samples = _judged_again(samples, stale, problems, verifier)
        log.replace(*(sample.to_json() for sample in samples))
    skip = len(samples) // sampling.batch_size
    if len(samples) < num_samples:
        batches = answer_batches(
            sampler, problems, verifier, sampling, skip=skip, pool_batches=_POOL_BATCHES, on_batch=on_batch
        )
        for answers in batches:
            new = samples_of(answers, problems, sampling.group_size, len(samples))
            log.append(*(sample.to_json() for sample in new))
            samples += new
            if len(samples) >= _FEWEST:
                _check(samples, max_failed_share)
    _check(samples, max_failed_share)
    return samples


def check_rows(path: Path, samples: list[Sample], problems: Sequence[Problem], group_size: int) -> None:
    """
    Raises:
        InputError: row i is not sample i % k of problem i // k, or there are too many.
    """
    for row, sample in enumerate(samples):
        number, place = divmod(row, group_size)
        if number >= len(problems) or (sample.problem, sample.sample) != (problems[number].id, place):
            raise InputError(
                f"{path} is damaged (line {row + 1} holds sample {sample.sample} of {sample.problem!r}, which does not "
                "belong there); remove it, and its samples are drawn again"
            )


def _judged_again(
    samples: list[Sample], stale: list[int], problems: list[Problem], verifier: Verifier
) -> list[Sample]:
    answers = {problem.id: problem.answer for problem in problems}
    pending = verifier.submit(
        [samples[i].response for i in stale], [answers[samples[i].problem] for i in stale]
    )
    samples = list(samples)
    for index, judgement in zip(stale, pending.result(), strict=True):
        samples[index] = replace(samples[index], **vars(judgement))
    return samples


def _check(samples: Sequence[Sample], max_failed_share: float) -> None:
    judged = [(s.problem, s.response, Judgement(s.verdict, s.answer, s.detail)) for s in samples]
    check_failures(judged, max_failed_share)
