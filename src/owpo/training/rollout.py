"""From problems to rewarded groups: sample, verify, drop what teaches nothing, sample more.

Shape legend: P prompts, G responses per prompt, B = P * G sequences (row p * G + g), T response tokens.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.clock import PhaseClock
from owpo.config import RolloutConfig, VerifierConfig
from owpo.core.advantage import overlong_penalty, zero_variance
from owpo.engines.engine import Sampler
from owpo.evaluation.answers import Groups, Sampling, answer_problems, concatenate
from owpo.evaluation.guard import Judged
from owpo.problems.problem import Problem
from owpo.seeds import derive_seed
from owpo.training.noise import is_noisy, rewarded
from owpo.verify.verdict import UNDECIDED
from owpo.verify.verifier import Verifier


class ProblemOrder:
    """Problems in a new random order every epoch; which one comes at a position depends on the seed alone."""

    def __init__(self, problems: list[Problem], seed: int) -> None:
        self.problems = problems
        self.seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def take(self, cursor: int, count: int) -> list[Problem]:
        """The problems at positions cursor ... cursor + count - 1."""
        return [self._at(position) for position in range(cursor, cursor + count)]

    def _at(self, position: int) -> Problem:
        epoch, index = divmod(position, len(self.problems))
        if epoch != self._epoch:
            self._order = list(range(len(self.problems)))
            random.Random(derive_seed(self.seed, "order", epoch)).shuffle(self._order)
            self._epoch = epoch
        return self.problems[self._order[index]]


@dataclass(frozen=True)
class Rollout:
    """What a step trains on (`groups` is None where no group taught anything), and what it cost to find.

    rewarded_PG  [P, G] bool of `groups`: the verdicts that training is told, the truth where there is no noise
    judged       everything that was sampled, kept or not, as it was judged
    """

    groups: Groups | None
    rewarded_PG: Tensor | None
    num_drawn: int
    is_short: bool
    stats: dict[str, float]
    judged: list[Judged]


def collect_rollout(
    sampler: Sampler,
    order: ProblemOrder,
    cursor: int,
    verifier: Verifier,
    settings: RolloutConfig,
    noise: VerifierConfig,
    *,
    stop: tuple[str, ...],
    dynamic_sampling: bool,
    seed: int,
    clock: PhaseClock,
    on_batch: Callable[[int], None] | None = None,
) -> Rollout:
    """`settings.prompts` groups; with dynamic sampling only groups that hold right and wrong answers (DAPO).

    The filter looks at the verdicts as training is told them and never at a shaped reward. Rounds of `settings.prompts`
    prompts are sampled until enough groups are kept or `max_rounds` is reached; the step then goes on with what there
    is (`is_short`).

    Args:
        noise: how often training is told another verdict than the verifier's.
        clock: is told what goes into verifying.
    """
    kept: list[Groups] = []
    kept_rewarded: list[Tensor] = []
    everything: list[Groups] = []
    everything_rewarded: list[Tensor] = []
    num_kept = drawn = 0
    for round_ in range(settings.max_rounds if dynamic_sampling else 1):
        problems = order.take(cursor + drawn, settings.prompts)
        drawn += settings.prompts
        groups = answer_problems(
            sampler,
            problems,
            verifier,
            Sampling(
                group_size=settings.group_size,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=1.0,  # from the full distribution, whose log-probs the updates compare
                seed=derive_seed(seed, "round", round_),
                batch_size=settings.batch_size,
                stop=stop,
            ),
            clock=clock,
            on_batch=on_batch,
        )
        rewarded_PG = rewarded(groups.correct_PG, noise, derive_seed(seed, "noise", round_))
        everything.append(groups)
        everything_rewarded.append(rewarded_PG)
        chosen = list(range(settings.prompts))
        if dynamic_sampling:
            mixed = (~zero_variance(rewarded_PG)).nonzero().flatten().tolist()
            chosen = mixed[: settings.prompts - num_kept]
        if chosen:
            kept.append(groups.select(chosen))
            kept_rewarded.append(rewarded_PG[chosen])
            num_kept += len(chosen)
        if num_kept == settings.prompts:
            break
    return Rollout(
        groups=concatenate(kept, sampler.policy.pad_id) if kept else None,
        rewarded_PG=torch.cat(kept_rewarded) if kept else None,
        num_drawn=drawn,
        is_short=num_kept < settings.prompts,
        stats={
            **_describe(everything, torch.cat(everything_rewarded), is_noisy(noise)),
            "groups_kept": num_kept,
            "groups_sampled": drawn,
        },
        judged=[item for part in everything for item in part.judged()],
    )


def _describe(parts: list[Groups], rewarded_PG: Tensor, with_noise: bool) -> dict[str, float]:
    """Metrics over everything that was sampled, kept or not."""
    correct_PG = torch.cat([part.correct_PG for part in parts])
    told_P = rewarded_PG.double().mean(dim=1)
    lengths = torch.cat([part.responses.lengths for part in parts]).double()
    truncated = torch.cat([part.responses.truncated for part in parts]).double()
    verdicts = Counter(verdict for part in parts for verdict in part.verdicts)
    noise = {
        "rewarded_accuracy": rewarded_PG.double().mean().item(),
        "flipped_share": (rewarded_PG ^ correct_PG).double().mean().item(),
    }
    return {
        "accuracy": correct_PG.double().mean().item(),
        **(noise if with_noise else {}),
        "all_right_share": (told_P == 1).double().mean().item(),
        "all_wrong_share": (told_P == 0).double().mean().item(),
        **{f"{verdict}_share": verdicts[verdict] / correct_PG.numel() for verdict in UNDECIDED},
        "response_length": lengths.mean().item(),
        "response_length_p95": lengths.quantile(0.95).item(),
        "truncated_share": truncated.mean().item(),
        "sampled_tokens": int(lengths.sum().item()),
    }


def shaped_reward(rewarded_PG: Tensor, lengths_B: Tensor, settings: RolloutConfig) -> Tensor:
    """reward_PG: 1 for a response that counts as correct, else 0, plus DAPO's overlong penalty where it is on.

    Args:
        lengths_B: [B] of the responses in tokens, on any device.
    """
    reward_PG = rewarded_PG.double()
    if settings.overlong_cache == 0:
        return reward_PG
    lengths_PG = lengths_B.cpu().view_as(reward_PG)
    return reward_PG + overlong_penalty(lengths_PG, settings.max_new_tokens, settings.overlong_cache)
