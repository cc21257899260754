"""A policy's verified answers to problems: what training learns from, and what an evaluation counts.

Shape legend: P problems, G responses to each, B = P * G rows (row p * G + g).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from owpo.clock import PhaseClock
from owpo.engines.engine import Sampler
from owpo.errors import RunFailed
from owpo.evaluation.guard import Judged
from owpo.policy.responses import Responses
from owpo.policy.stopping import StopStrings
from owpo.problems.problem import Problem
from owpo.verify.verdict import Judgement, Verdict, VerifierFailed
from owpo.verify.verifier import Pending, Verifier

_LOOK_UP_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are drawn: `policy.sampler.sample_batches` says what each entry means."""

    group_size: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    batch_size: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """Some rows: what was sampled, its text (without a stop string that ended it) and how it was judged."""

    responses: Responses
    texts: list[str]
    judgements: list[Judgement]

    @property
    def verdicts(self) -> list[Verdict]:
        return [judgement.verdict for judgement in self.judgements]


@dataclass(frozen=True)
class Groups(Answers):
    """P problems with G responses each, B rows in the order of the problems."""

    problems: list[Problem]

    @property
    def group_size(self) -> int:
        return len(self.judgements) // len(self.problems)

    @property
    def correct_PG(self) -> Tensor:
        correct = torch.tensor([verdict is Verdict.correct for verdict in self.verdicts])
        return correct.view(len(self.problems), -1)

    def judged(self) -> Iterator[Judged]:
        for row, (text, judgement) in enumerate(zip(self.texts, self.judgements, strict=True)):
            yield self.problems[row // self.group_size].id, text, judgement

    def select(self, keep: list[int]) -> Groups:
        """These groups, in this order."""
        size = self.group_size
        rows = [p * size + g for p in keep for g in range(size)]
        return Groups(
            self.responses.rows(torch.tensor(rows, device=self.responses.tokens.device)),
            [self.texts[i] for i in rows],
            [self.judgements[i] for i in rows],
            [self.problems[p] for p in keep],
        )


def concatenate(parts: list[Groups], pad_id: int) -> Groups:
    """The groups of all parts, in order."""
    return _groups([problem for part in parts for problem in part.problems], parts, pad_id)


def answer_problems(
    sampler: Sampler,
    problems: list[Problem],
    verifier: Verifier,
    sampling: Sampling,
    *,
    clock: PhaseClock | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Groups:
    """G verified responses to each problem."""
    batches = answer_batches(sampler, problems, verifier, sampling, clock=clock, on_batch=on_batch)
    return _groups(problems, list(batches), sampler.policy.pad_id)


def answer_batches(
    sampler: Sampler,
    problems: list[Problem],
    verifier: Verifier,
    sampling: Sampling,
    *,
    skip: int = 0,
    pool_batches: int | None = None,
    clock: PhaseClock | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Answers]:
    """The same, `sampling.batch_size` rows at a time, from batch `skip` on. One is verified while the next is sampled.

    Args:
        pool_batches: see `policy.sampler.sample_batches`.
        clock: what is spent on handing responses to the verifier and on waiting for it is booked as `verifying`.
        on_batch: called with the number of rows sampled: after every batch, and now and then while their verdicts
            are waited for. It may raise to end the work.
    """
    policy = sampler.policy
    prompts = [policy.encode(problem.prompt, special_tokens=not problem.is_chat) for problem in problems]
    answers = [problem.answer for problem in problems for _ in range(sampling.group_size)]
    stop = StopStrings(sampling.stop)
    row = skip * sampling.batch_size
    clock = clock or PhaseClock()
    waiting = None
    for responses in sampler.batches(prompts, skip=skip, pool_batches=pool_batches, **asdict(sampling)):
        texts = [stop.before(text) for text in policy.decode_all(responses)]
        with clock("verifying"):
            pending = verifier.submit(texts, answers[row : row + len(texts)])
        row += len(texts)
        report = partial(on_batch, row) if on_batch is not None else None
        if report is not None:
            report()
        if waiting is not None:
            with clock("verifying"):
                judged = _judged(*waiting, report)
            yield judged
        waiting = responses, texts, pending
    if waiting is not None:
        with clock("verifying"):
            judged = _judged(*waiting, report)
        yield judged


def _judged(
    responses: Responses, texts: list[str], pending: Pending, report: Callable[[], None] | None
) -> Answers:
    while not pending.wait(_LOOK_UP_S):
        if report is not None:
            report()  # it may want to stop, and a verifier may take long
    try:
        return Answers(responses, texts, pending.result())
    except VerifierFailed as error:
        raise RunFailed(
            f"{error}. What was saved before is untouched; mend the verifier and go on"
        ) from error


def _groups(problems: list[Problem], parts: list[Answers] | list[Groups], pad_id: int) -> Groups:
    return Groups(
        Responses.concatenate([part.responses for part in parts], pad_id),
        [text for part in parts for text in part.texts],
        [judgement for part in parts for judgement in part.judgements],
        problems,
    )
