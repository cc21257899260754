"""Seconds a step, measured: the real passes on new models of the run's width with one layer and with two.

Layers are alike, so the difference of the two is a layer's; a step's tokens are many passes like the timed ones. What
is not in it: verifying, writing logs and checkpoints, evaluations, and more than one round of dynamic sampling. Every
response is of one length, and every one is trained on.

Shape legend: R rows that are decoded, N tokens of a packed row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from owpo.config import RunConfig
from owpo.core.registry import Needs
from owpo.estimate.memory import Models
from owpo.estimate.shape import NoEstimate, build
from owpo.policy.attention import hidden_states
from owpo.policy.choose import choose, uniform
from owpo.policy.decoding import KeyValues, Step, num_prompt_slots, shares_prompts
from owpo.policy.load import DTYPES
from owpo.policy.logprobs import response_logprobs
from owpo.policy.model import Policy
from owpo.policy.packing import pack_prompts
from owpo.policy.passes import recomputing
from owpo.policy.responses import Responses

_TIMED_TOKENS = 4096  # of the passes that are timed, or one response where that is longer
_LEAST_S = 0.5
_MOST_TRIES = 10


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of a step whose responses have `response_tokens` tokens each."""

    response_tokens: int
    sampling: float
    scoring: float
    update: float

    @property
    def total(self) -> float:
        return self.sampling + self.scoring + self.update


@dataclass(frozen=True)
class _Passes:
    """Seconds of: a prompt's token, a token of every slot, a micro-batch of `rows` scored and trained on, an update."""

    prompt_token: float
    decoding: float
    score: float
    train: float
    optimiser: float


def estimate_seconds(
    config: RunConfig, models: Models, *, prompt_tokens: int, response_tokens: int, free: int | None
) -> StepSeconds:
    """
    Args:
        response_tokens: of every response.
        free: bytes that the models of one and two layers may take; None: not known.

    Raises:
        NoEstimate: two layers of the model do not fit either.
    """
    rollout, training = config.rollout, config.training
    rows = _timed_rows(config, prompt_tokens, response_tokens)
    one, two = (
        _timed(config, models, layers, rows, prompt_tokens, response_tokens, free) for layers in (1, 2)
    )
    passes = _Passes(
        *(
            here + max(there - here, 0.0) * (models.policy.layers - 1)
            for here, there in zip(vars(one).values(), vars(two).values(), strict=True)
        )
    )
    num_rows = rollout.prompts * rollout.group_size
    slots = min(rollout.batch_size, num_rows)
    micro_batches = num_rows / rows
    needs = config.objective.build().needs
    scored = _old_share(needs, training.updates_per_batch) + needs.reference
    return StepSeconds(
        response_tokens,
        sampling=passes.prompt_token * rollout.prompts * prompt_tokens
        + passes.decoding * response_tokens * num_rows / slots,
        scoring=passes.score * micro_batches * scored,
        update=passes.train * micro_batches + passes.optimiser * training.updates_per_batch,
    )


def _old_share(needs: Needs, updates: int) -> float:
    """Of the rows, those that the policy scores before the updates (`training.stage`)."""
    if needs.prepared:
        return 1.0
    return (updates - 1) / updates if needs.old_logp else 0.0


def _timed_rows(config: RunConfig, prompt_tokens: int, response_tokens: int) -> int:
    """Rows of a timed micro-batch: whole groups where they fit."""
    group = config.rollout.group_size
    budget = min(config.training.micro_batch_tokens, _TIMED_TOKENS)
    groups = budget // (prompt_tokens + group * response_tokens)
    if groups:
        return group * min(groups, math.ceil(config.rollout.prompts / config.training.updates_per_batch))
    return min(group, max((budget - prompt_tokens) // response_tokens, 1))


def _timed(
    config: RunConfig,
    models: Models,
    layers: int,
    rows: int,
    prompt_tokens: int,
    response_tokens: int,
    free: int | None,
) -> _Passes:
    with torch.device("meta"):
        parameters = sum(each.numel() for each in build(models.config, layers).parameters())
    if free is not None and 24 * parameters > free:
        raise NoEstimate("two layers of the model, with what training adds to them, do not fit here either")
    device = torch.device(config.run.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(models.config, layers).to(device)
    policy = Policy(model, None, DTYPES[config.run.dtype])
    if not policy.takes_layouts:
        raise NoEstimate(f"{type(model).__name__} decodes by its own means, which are not timed")
    responses = _responses(rows, config.rollout.group_size, prompt_tokens, response_tokens, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)

    def score() -> None:
        with torch.no_grad():
            response_logprobs(policy, responses, 1.0)

    def train() -> None:
        with recomputing(model, config.training.gradient_checkpointing):
            logp_BT, _ = response_logprobs(policy, responses, 1.0, with_entropy=True)
            logp_BT.mean().backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    train_s = _seconds(train, device)
    return _Passes(
        prompt_token=_prompt_seconds(policy, prompt_tokens),
        decoding=_decoding_seconds(policy, config, prompt_tokens, response_tokens),
        score=_seconds(score, device),
        train=train_s,
        optimiser=_seconds(update, device),
    )


def _responses(
    rows: int, group: int, prompt_tokens: int, response_tokens: int, device: torch.device
) -> Responses:
    prompts = [[1] * prompt_tokens for _ in range(-(-rows // group))]
    tokens_BT = torch.ones(rows, response_tokens, dtype=torch.int64, device=device)
    return Responses(
        prompts=[prompts[row // group] for row in range(rows)],
        tokens=tokens_BT,
        mask=torch.ones_like(tokens_BT, dtype=torch.bool),
        sampler_logp=torch.zeros(tokens_BT.shape, device=device),
        truncated=torch.zeros(rows, dtype=torch.bool, device=device),
    )


def _prompt_seconds(policy: Policy, prompt_tokens: int) -> float:
    """Of one prompt token."""
    count = max(_TIMED_TOKENS // prompt_tokens, 1)
    packed = pack_prompts([[1] * prompt_tokens for _ in range(count)], policy.device)

    def prefill() -> None:
        with torch.no_grad(), policy.autocast():
            hidden_states(policy.model, packed.tokens_N, packed.position_N, packed)

    return _seconds(prefill, policy.device) / (count * prompt_tokens)


def _decoding_seconds(policy: Policy, config: RunConfig, prompt_tokens: int, response_tokens: int) -> float:
    """Of one token of every slot, half of the responses behind it: what `policy.sampler` does for it."""
    rollout = config.rollout
    num_rows = min(rollout.batch_size, rollout.prompts * rollout.group_size)
    group = min(rollout.group_size, num_rows)
    device, half = policy.device, response_tokens // 2
    shares = shares_prompts(group, prompt_tokens)
    kept = half if shares else prompt_tokens + half
    row_R = torch.arange(num_rows, device=device)
    token_R, kept_R = torch.ones_like(row_R), torch.full_like(row_R, kept)
    own = KeyValues(num_rows, kept + 1)
    prompts = KeyValues(num_prompt_slots(num_rows, group), prompt_tokens) if shares else None
    length_P = row_R.new_full((-(-num_rows // group),), prompt_tokens)
    num_steps = 4
    tokens_RT, length_R = torch.zeros(num_rows, 1, dtype=torch.int64, device=device), torch.zeros_like(row_R)
    logp_RT = tokens_RT.float()

    def decode() -> None:
        # The converted weights are kept from token to token, as in the sampler.
        with torch.no_grad(), policy.autocast():
            for _ in range(num_steps):
                layout = Step(
                    own=own, prompts=prompts, kept_R=kept_R, most_kept=kept, is_level=False,
                    prompt_R=row_R // group, length_P=length_P,
                )  # fmt: skip
                hidden_RH = hidden_states(policy.model, token_R, prompt_tokens + half + 0 * row_R, layout)
                logits_RV = policy.head.logits(hidden_RH)
                token, logp = choose(logits_RV, rollout.temperature, 1.0, uniform(0, row_R, kept_R))
                tokens_RT[row_R, length_R], logp_RT[row_R, length_R] = token, logp
                done_R = torch.isin(token, row_R[:1]) | (length_R + 1 == 0)
                torch.stack([done_R.sum(), done_R.sum()]).tolist()

    return _seconds(decode, device) / num_steps


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Of the fastest of a few tries, which other work on the machine has disturbed least; the first one warms up.

    On one thread CPU seconds, which other work disturbs less still: they are what a machine without it takes.
    """
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if is_alone else time.perf_counter
    times: list[float] = []
    work()
    while len(times) < 2 or (sum(times) < _LEAST_S and len(times) < _MOST_TRIES):
        _wait(device)
        start = clock()
        work()
        _wait(device)
        times.append(clock() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
