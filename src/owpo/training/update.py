"""One optimiser update: micro-batches in, one step of the weights out.

Shape legend: B sequences, T response tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch
from owpo.core.reduce import StepCounts, reduction_weights
from owpo.core.registry import Objective
from owpo.policy.logprobs import micro_batches, reference_logprobs, response_logprobs
from owpo.policy.model import Policy
from owpo.policy.passes import recomputing
from owpo.policy.responses import Responses


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """B responses with all that an objective may read of them.

    group      [B] int64   which prompt a row answers
    advantage  [B]         active [B] bool
    old_logp   [B, T]      None where the only update of the batch defines it
    ref_logp   [B, T]      None where the objective reads none; NaN in rows of which it reads none
    weight     [B, T]      what `Objective.prepare` decided
    recorded   [B] int64   by which number an update gives back a row's tokens, -1: not at all; None: no row's
    step       int         rollout steps done in the stage
    """

    responses: Responses
    group: Tensor
    advantage: Tensor
    active: Tensor
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    weight: Tensor | None = None
    recorded: Tensor | None = None
    step: int = 0

    def rows(self, index: Tensor) -> TrainingRows:
        """These rows; T shrinks to the longest of them."""
        responses = self.responses.rows(index)
        length = responses.tokens.shape[1]

        def picked(value: Tensor | None) -> Tensor | None:
            return value if value is None else value[index, :length]

        return TrainingRows(
            responses=responses,
            group=self.group[index],
            advantage=self.advantage[index],
            active=self.active[index],
            old_logp=picked(self.old_logp),
            ref_logp=picked(self.ref_logp),
            weight=picked(self.weight),
            recorded=self.recorded if self.recorded is None else self.recorded[index],
            step=self.step,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything in them as named tensors, to be written out."""
        own = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return {**own, "tokens": self.responses.tokens, "mask": self.responses.mask}


@dataclass(frozen=True)
class Total:
    """A statistic's sum over the trained tokens that have it, and how many do."""

    sum: float
    count: int


TokenValues = dict[str, list[float | None]]
"""Of one response: a name of `TOKEN_VALUES` -> a value a token, None where it has none."""
TOKEN_VALUES = ("logp", "ref_logp", "delta", "weight", "entropy")
_DIGITS = 5


@dataclass(frozen=True)
class UpdateResult:
    """`bad` says why no step was taken, None if one was; `tokens` are the recorded rows', by their numbers."""

    bad: str | None
    loss: float
    grad_norm: float
    num_tokens: int
    stats: dict[str, Total]
    tokens: dict[int, TokenValues] = field(default_factory=dict)


class NonFinite(Exception):
    """A loss or gradient that is not a number; raised before it reaches the weights."""


def rows_with_gradient(rows: TrainingRows, objective: Objective) -> Tensor:
    """Indices of the rows that can move the weights: a sample with advantage 0 needs no pass where it has none."""
    if objective.needs.zero_advantage:
        return torch.arange(len(rows.advantage), device=rows.advantage.device)
    return rows.advantage.nonzero().flatten()


def rows_with_reference(rows: TrainingRows, objective: Objective) -> Tensor:
    """Of those, the rows whose reference log-probs are read."""
    trained = rows_with_gradient(rows, objective)
    return trained[rows.active[trained]] if objective.needs.active_only else trained


def add_old_logp(
    policy: Policy, rows: TrainingRows, index: Tensor, temperature: float, micro_batch_tokens: int
) -> TrainingRows:
    """The rows with `old_logp` of the rows in `index` from the policy as it stands."""
    return replace(
        rows, old_logp=_scored_rows(policy, rows.responses, index, temperature, micro_batch_tokens)
    )


def add_ref_logp(
    reference: Policy, rows: TrainingRows, index: Tensor, temperature: float, micro_batch_tokens: int
) -> TrainingRows:
    """The rows with `ref_logp` of the rows in `index`, by the same function, dtype and kernel as the policy's."""
    return replace(
        rows, ref_logp=_scored_rows(reference, rows.responses, index, temperature, micro_batch_tokens)
    )


def _scored_rows(
    policy: Policy, responses: Responses, index: Tensor, temperature: float, micro_batch_tokens: int
) -> Tensor:
    """Log-probs [B, T] without gradient; NaN in rows that were not asked for, so that none is read by mistake."""
    if len(index) == 0:
        return torch.full(responses.tokens.shape, float("nan"), device=responses.tokens.device)
    scored = reference_logprobs(policy, responses.rows(index), temperature, micro_batch_tokens)
    logp = torch.full(responses.tokens.shape, float("nan"), dtype=scored.dtype, device=scored.device)
    logp[index, : scored.shape[1]] = scored
    return logp


def accumulate_gradients(
    policy: Policy,
    objective: Objective,
    rows: TrainingRows,
    split: list[Tensor],
    *,
    reduction: str,
    counts: StepCounts,
    prompt_tokens: Tensor,
    temperature: float,
) -> tuple[float, int, dict[str, Total], dict[int, TokenValues]]:
    """Add the gradient of one optimiser step to the parameters, micro-batch by micro-batch.

    Args:
        rows: the step's rows that have a gradient.
        split: row indices of each micro-batch; any partition of the rows gives the same gradient.
        counts: of the whole step, rows without a gradient included.
        prompt_tokens: [B], response tokens of each row's whole group.

    Returns:
        The step's loss, its trained tokens, every per-token statistic's total over them, and the recorded rows' values.

    Raises:
        NonFinite: the loss of a micro-batch is not finite.
    """
    total = 0.0
    num_tokens = 0
    totals: dict[str, Tensor] = {}
    tokens: dict[int, TokenValues] = {}
    for index in split:
        part = rows.rows(index)
        mask = part.responses.mask
        logp, entropy = response_logprobs(policy, part.responses, temperature, with_entropy=True)
        batch = TokenBatch(
            logp=logp,
            old_logp=logp.detach() if part.old_logp is None else part.old_logp,
            ref_logp=part.ref_logp,
            sampler_logp=part.responses.sampler_logp,
            advantage=part.advantage.to(logp.dtype),
            mask=mask,
            active=part.active,
            weight=part.weight,
            step=part.step,
        )
        result = objective(batch)
        weights = reduction_weights(mask, reduction, counts, prompt_tokens[index], dtype=logp.dtype)
        loss = (result.loss * weights).sum()
        if not torch.isfinite(loss):
            raise NonFinite(f"loss is {loss.item()}")
        loss.backward()
        total += loss.item()
        num_tokens += int(mask.sum())
        assert entropy is not None
        stats = {**result.stats, "entropy": entropy}
        assert batch.old_logp is not None
        # What the engine sampled by, against what the trainer takes it for.
        stats["sampler_gap"] = (part.responses.sampler_logp - batch.old_logp).abs()
        stats["kl_sampler_to_trainer"] = token_divergence(part.responses.sampler_logp, batch.old_logp)
        if part.ref_logp is not None:
            stats["kl_to_reference"] = token_divergence(logp.detach(), part.ref_logp)
        for name, value in stats.items():
            known = value[mask].double()
            # NaN is what has no value: the deviation of a row that the reference did not score.
            pair = torch.stack([known.nansum(), (~known.isnan()).sum().double()])
            totals[name] = totals[name] + pair if name in totals else pair
        if part.recorded is not None:
            ref_logp = {} if part.ref_logp is None else {"ref_logp": part.ref_logp}
            tokens |= token_values(part.recorded, mask, {"logp": logp.detach(), **ref_logp, **stats})
    return total, num_tokens, _read(totals), tokens


def token_values(recorded: Tensor, mask: Tensor, values: Mapping[str, Tensor]) -> dict[int, TokenValues]:
    """What `values` ([B, T] each) hold of the rows with a number ([B] int64, -1: none), by it."""
    found = {}
    for row in (recorded >= 0).nonzero().flatten().tolist():
        of_row = {name: values[name][row][mask[row]].tolist() for name in TOKEN_VALUES if name in values}
        found[int(recorded[row])] = {
            name: [None if math.isnan(value) else round(value, _DIGITS) for value in row_values]
            for name, row_values in of_row.items()
        }
    return found


def _read(totals: dict[str, Tensor]) -> dict[str, Total]:
    """One transfer from the device for all of them."""
    pairs = torch.stack(list(totals.values())).tolist() if totals else []
    return {name: Total(total, int(count)) for name, (total, count) in zip(totals, pairs, strict=True)}


def token_divergence(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """KL(pi || ref) estimated at each sampled token, unbiased and never negative: e^-x - 1 + x, x = log pi/ref."""
    x = (logp - ref_logp).clamp(min=-20)
    return torch.exp(-x) - 1 + x


def optimiser_update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    rows: TrainingRows,
    *,
    reduction: str,
    max_tokens: int,
    temperature: float,
    micro_batch_tokens: int,
    grad_clip: float,
    seed: int,
    gradient_checkpointing: bool = False,
) -> UpdateResult:
    """One step of the weights on `rows`: none where no row has a gradient, or loss or gradient is not finite.

    Args:
        reduction: a name of `owpo.core.reduce.MODES`.
        max_tokens: the longest response that sampling allows.
        micro_batch_tokens: of prompts and responses in one forward-backward pass.
        grad_clip: largest norm of the whole gradient.
        seed: of what an objective prepares at random.
        gradient_checkpointing: whether a layer keeps its input alone for the backward pass.
    """
    counts, prompt_tokens = _counts(rows, max_tokens)
    trained = rows_with_gradient(rows, objective)
    if len(trained) == 0:
        return UpdateResult(None, 0.0, 0.0, 0, {})
    rows = _prepare(objective, rows.rows(trained), seed)
    try:
        with recomputing(policy.model, gradient_checkpointing):
            loss, num_tokens, stats, tokens = accumulate_gradients(
                policy,
                objective,
                rows,
                micro_batches(rows.responses, micro_batch_tokens, shares_prompts=policy.takes_layouts),
                reduction=reduction,
                counts=counts,
                prompt_tokens=prompt_tokens[trained],
                temperature=temperature,
            )
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.trained_parameters(), grad_clip).item()
        if not math.isfinite(grad_norm):
            raise NonFinite(f"gradient norm is {grad_norm}")
        optimizer.step()
    except NonFinite as error:
        return UpdateResult(str(error), float("nan"), float("nan"), 0, {})
    finally:
        # Now, and not before the next step: until then gradients would take the room of the sampler's cache.
        optimizer.zero_grad(set_to_none=True)
    return UpdateResult(None, loss, grad_norm, num_tokens, stats, tokens)


def _counts(rows: TrainingRows, max_tokens: int) -> tuple[StepCounts, Tensor]:
    """What the step holds, rows without a gradient included, and the response tokens of each row's group, [B]."""
    lengths = rows.responses.lengths
    group_tokens = lengths.new_zeros(int(rows.group.max()) + 1).index_add_(0, rows.group, lengths)
    counts = StepCounts(
        tokens=int(lengths.sum()),
        sequences=len(lengths),
        prompts=len(rows.group.unique()),
        max_tokens=max_tokens,
    )
    return counts, group_tokens[rows.group]


def batch_before_update(rows: TrainingRows, objective: Objective, seed: int) -> TokenBatch:
    """The rows with the policy at `old_logp`, and with what the objective prepares before they are split.

    Args:
        seed: of what is prepared at random.
    """
    assert rows.old_logp is not None
    batch = TokenBatch(
        logp=rows.old_logp,
        old_logp=rows.old_logp,
        ref_logp=rows.ref_logp,
        advantage=rows.advantage.to(rows.old_logp.dtype),
        mask=rows.responses.mask,
        active=rows.active,
        context=rows.responses.contexts if objective.needs.contexts else None,
        step=rows.step,
    )
    return objective.prepare(batch, torch.Generator().manual_seed(seed))


def _prepare(objective: Objective, rows: TrainingRows, seed: int) -> TrainingRows:
    """What must see the whole step before it is split, where the objective has such."""
    if not objective.needs.prepared:
        return rows
    return replace(rows, weight=batch_before_update(rows, objective, seed).weight)
