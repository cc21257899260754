"""The mean update of a token in its context: where it runs against what the verifier says on average.

A context is a prompt, the response's tokens so far and the token that comes next. Of the visits of a context a share p
is correct, of all responses to its prompt a share q. The verifier's mean direction there is that of p - q, whatever its
noise; a rule whose mean coefficient has the other sign is reversed in expectation. One-way weights allow it where the
policy is past its reference and E[A] / E|A| < (w_high - w_low) / (w_high + w_low).

p is an estimate, and its error both fakes and hides reversals. So beside the share at the estimate stand the shares of
what is surely reversed (for every p of Wilson's interval) and of what may be (for some p of it).

Shape legend: B responses, T response tokens, C contexts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from owpo.evaluation.score_intervals import wilson
from owpo.expectation.rules import Rule, expected_parts, told_correct

_LEVEL = 0.95
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Contexts:
    """
    visits         [C] float64   responses that pass through
    correct        [C] float64   the share of them that is correct, p
    group_correct  [C] float64   the share of all responses to the prompt, q
    log_ratio      [C] float64   log pi - log ref of the token
    """

    visits: Tensor
    correct: Tensor
    group_correct: Tensor
    log_ratio: Tensor

    def where(self, chosen: Tensor) -> Contexts:
        """Those that `chosen` [C] bool marks."""
        return Contexts(
            self.visits[chosen], self.correct[chosen], self.group_correct[chosen], self.log_ratio[chosen]
        )

    def share(self, chosen: Tensor) -> float | None:
        """Of all visits those of the contexts in `chosen` [C] bool; None where there are no contexts."""
        if len(self.visits) == 0:
            return None
        return (self.visits[chosen].sum() / self.visits.sum()).item()


def context_ids(prompt_B: Tensor, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """A number for every context, 0 ... C - 1, at each of its visits, [B, T] int64; -1 at padding.

    Args:
        prompt_B: [B] int64, which prompt a row answers.
        mask_BT: True on the response's tokens, which stand at the left of every row.
    """
    ids_BT, before_B, count = torch.full_like(tokens_BT, -1), prompt_B.clone(), 0
    for t in range(tokens_BT.shape[1]):
        row = mask_BT[:, t].nonzero().squeeze(1)
        if len(row) == 0:
            break
        pair = before_B[row] * (tokens_BT.max() + 1) + tokens_BT[row, t]
        distinct, number = pair.unique(return_inverse=True)
        ids_BT[row, t] = before_B[row] = number + count
        count += len(distinct)
    return ids_BT


def contexts_of(
    prompt_B: Tensor, tokens_BT: Tensor, mask_BT: Tensor, correct_B: Tensor, log_ratio_BT: Tensor
) -> Contexts:
    """Every context that the responses pass through.

    Args:
        correct_B: [B] bool, what a verifier without errors says.
    """
    id_N = context_ids(prompt_B, tokens_BT, mask_BT)[mask_BT]
    visits = id_N.bincount().double()

    def mean(value_BT: Tensor) -> Tensor:
        return id_N.bincount(weights=value_BT[mask_BT].double()) / visits

    responses, right = prompt_B.bincount(), prompt_B.bincount(weights=correct_B.double())
    group_correct_C = visits.new_empty(len(visits))
    group_correct_C[id_N] = (right / responses)[prompt_B].unsqueeze(1).expand(mask_BT.shape)[mask_BT]
    return Contexts(
        visits, mean(correct_B.unsqueeze(1).expand(mask_BT.shape)), group_correct_C, mean(log_ratio_BT)
    )


@dataclass(frozen=True)
class Reversals:
    """Shares of the tokens where the verifier has a mean direction, None where there are none.

    reversed  the mean update at the estimate p runs against it
    surely    it does for every p of the 95% interval
    possibly  it does for some p of the 95% interval
    force     as `reversed`, each token with the weight |E[A]|
    """

    reversed: float | None
    surely: float | None
    possibly: float | None
    force: float | None


def reversals(contexts: Contexts, rule: Rule, flip: float) -> Reversals:
    """What a verifier that errs with chance `flip` < 0.5 makes of these contexts.

    E[A] and E[w A] both grow with p: the p between their zeros are the reversed ones.
    """
    contexts = contexts.where(has_direction(contexts))
    p, q = contexts.correct, contexts.group_correct
    low, high = wilson(p, contexts.visits, _LEVEL)

    def mean(share: Tensor) -> Tensor:
        parts = expected_parts(told_correct(share, flip), told_correct(q, flip))
        return rule(contexts.log_ratio, *parts)

    turned = (p - q) * mean(p) < 0
    surely = ((low > q) & (mean(high) < 0)) | ((high < q) & (mean(low) > 0))
    at_rest = mean(q)
    back = (at_rest < -_ROUNDING) & (high > q) & (mean(low) < 0)
    ahead = (at_rest > _ROUNDING) & (low < q) & (mean(high) > 0)
    gain, loss = expected_parts(told_correct(p, flip), told_correct(q, flip))
    force = contexts.visits * (gain + loss).abs()
    return Reversals(
        contexts.share(turned),
        contexts.share(surely),
        contexts.share(turned | back | ahead),
        (force[turned].sum() / force.sum()).item() if len(p) else None,
    )


def has_direction(contexts: Contexts) -> Tensor:
    """[C] bool: where being correct has something to do with passing through.

    Both are shares of whole numbers, rounded once: equal shares are equal numbers.
    """
    return contexts.correct != contexts.group_correct


def measure_contexts(
    contexts: Contexts, rules: dict[str, Rule], flips: list[float], *, min_visits: int, past: float
) -> dict[str, Any]:
    """
    Args:
        min_visits: contexts with fewer are left out.
        past: from how many nats on a token counts as ahead of the reference, or behind it.

    Returns:
        `tokens` sampled; the share of them that is `covered` by contexts with enough visits; of these the shares
        `ahead`, `behind` and `directed`; of the last the `reversals` of each rule at each flip.
    """
    kept = contexts.where(contexts.visits >= min_visits)
    return {
        "min_visits": min_visits,
        "past": past,
        "tokens": int(contexts.visits.sum()),
        "contexts": len(kept.visits),
        "covered": contexts.share(contexts.visits >= min_visits),
        "ahead": kept.share(kept.log_ratio > past),
        "behind": kept.share(kept.log_ratio < -past),
        "directed": kept.share(has_direction(kept)),
        "reversals": [
            {"rule": name, "flip": flip, **asdict(reversals(kept, rule, flip))}
            for name, rule in rules.items()
            for flip in flips
        ],
    }
