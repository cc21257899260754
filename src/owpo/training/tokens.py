"""Token records: what every token of some responses went through. Lines of tokens.jsonl.gz.

Of the responses of a step that are trained on, the update's own pass is written down; problems of the selection set are
watched: scored by the learner and its reference whenever it is evaluated, so that the same problem can be followed.

Shape legend: P prompts, G responses per prompt, B = P * G sequences, T response tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor

from owpo.core.registry import Objective
from owpo.evaluation.answers import Groups
from owpo.policy.logprobs import micro_batches, response_logprobs
from owpo.policy.model import Policy
from owpo.policy.responses import Responses
from owpo.training.reference import Reference, weight_stats
from owpo.training.update import TokenValues, TrainingRows, add_ref_logp, rows_with_gradient, token_values


def recorded_rows(rows: TrainingRows, objective: Objective, count: int) -> TrainingRows:
    """The rows with `count` of those that will be trained on marked: right and wrong in turn, active ones first."""
    size = int((rows.group == rows.group[0]).sum())
    active, right = rows.active.tolist(), (rows.advantage > 0).tolist()
    trained = rows_with_gradient(rows, objective).tolist()
    trained.sort(key=lambda row: (not active[row], row % size, row // size))  # spread over prompts
    kinds = [[row for row in trained if right[row] is kind] for kind in (True, False)]
    chosen = [row for row in chain.from_iterable(zip_longest(*kinds)) if row is not None][:count]
    recorded = torch.full_like(rows.group, -1)
    recorded[chosen] = torch.tensor(chosen, dtype=recorded.dtype, device=recorded.device)
    return replace(rows, recorded=recorded)


def training_records(
    policy: Policy, groups: Groups, rows: TrainingRows, values: Mapping[int, TokenValues]
) -> Iterator[dict[str, Any]]:
    """The records of a step's responses.

    Args:
        values: of the updates, by row of the batch.
    """
    for row in sorted(values):
        yield _record("training", policy, groups, row, rows, row, values[row])


def watched_records(
    policy: Policy,
    groups: Groups,
    count: int,
    objective: Objective,
    reference: Reference | None,
    *,
    temperature: float,
    micro_batch_tokens: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The records of the first response to each of the first `count` problems, by the policy as it stands.

    Its deviation and weight are those that training on it would give for the verdict alone: advantage 1 or -1.

    Args:
        seed: of weights that an objective prepares at random.
    """
    watched = torch.arange(min(count, len(groups.problems))) * groups.group_size
    responses = groups.responses.rows(watched.to(groups.responses.tokens.device))
    logp, entropy = _scored(policy, responses, temperature, micro_batch_tokens)
    right = groups.correct_PG[: len(watched), 0].to(logp.device)
    every = torch.arange(len(watched), device=logp.device)
    rows = TrainingRows(
        responses=responses,
        group=every,
        advantage=torch.where(right, 1.0, -1.0),
        active=torch.ones_like(right),
        old_logp=logp,
    )
    stats = {"logp": logp, "entropy": entropy}
    if reference is not None and objective.needs.reference:
        rows = add_ref_logp(reference.policy, rows, every, temperature, micro_batch_tokens)
        assert rows.ref_logp is not None
        stats |= {"ref_logp": rows.ref_logp, **weight_stats(rows, objective, seed)}
    values = token_values(every, responses.mask, stats)
    for number, row in enumerate(watched.tolist()):
        yield _record("watched", policy, groups, row, rows, number, values[number])


def _scored(
    policy: Policy, responses: Responses, temperature: float, micro_batch_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies [B, T], without gradient."""
    dtype = torch.promote_types(policy.compute_dtype, torch.float32)
    logp = torch.zeros(responses.tokens.shape, dtype=dtype, device=responses.tokens.device)
    entropy = torch.zeros_like(logp)
    with torch.no_grad():
        for index in micro_batches(responses, micro_batch_tokens, shares_prompts=policy.takes_layouts):
            part = responses.rows(index)
            found = response_logprobs(policy, part, temperature, with_entropy=True)
            for whole, value in zip((logp, entropy), found, strict=True):
                assert value is not None
                whole[index, : value.shape[1]] = value
    return logp, entropy


def _record(
    kind: str,
    policy: Policy,
    groups: Groups,
    row: int,
    rows: TrainingRows,
    number: int,
    values: TokenValues,
) -> dict[str, Any]:
    """
    Args:
        row: of `groups`.
        number: the same response in `rows`.
    """
    problem, judgement = groups.problems[row // groups.group_size], groups.judgements[row]
    tokens = groups.responses.tokens[row][groups.responses.mask[row]].tolist()
    return {
        "kind": kind,
        "problem": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "verdict": str(judgement.verdict),
        "read": judgement.answer,
        "truncated": bool(groups.responses.truncated[row]),
        "advantage": round(rows.advantage[number].item(), 6),
        "active": bool(rows.active[number]),
        "pieces": policy.pieces(tokens),
        **values,
    }
