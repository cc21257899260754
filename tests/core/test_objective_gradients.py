"""Loss and gradient of every objective against a second implementation: scalars, `math`, one token at a time.

Each oracle gives a token's surrogate as a function of its live log-prob, with every stop-gradient part frozen
where the batch stands, and the coefficient c that the papers' algebra gives, dL = -c dlogp. The library's
gradient must be both the surrogate's finite difference and -c.
"""

from dataclasses import dataclass
from math import exp, log

import pytest
from core_batches import VARIANT_IDS, VARIANTS, loss_and_gradient, prepared, random_batch, sign

from owpo.core.registry import entries


@dataclass
class At:
    """A token, and its sequence, where the batch stands."""

    t: int
    lps: list
    olds: list
    ref: float
    adv: float
    active: bool
    weight: float
    step: int

    @property
    def lp(self):
        return self.lps[self.t]

    @property
    def old(self):
        return self.olds[self.t]

    @property
    def ratio(self):
        return exp(self.lp - self.old)

    @property
    def x(self):
        return self.lp - self.ref


def clip(value, low, high):
    return min(max(value, low), high)


def clipped_surrogate(ratio, adv, low, high, dual=None):
    loss = max(-ratio * adv, -clip(ratio, 1 - low, 1 + high) * adv)
    return min(loss, -dual * adv) if dual and adv < 0 else loss


def is_clipped(ratio, adv, low, high, dual=None):
    above, below = adv > 0 and ratio > 1 + high, adv < 0 and ratio < 1 - low
    return above or below or bool(dual and adv < 0 and ratio > dual)


def reinforce():
    return lambda lp, at: -at.adv * lp, lambda at: at.adv


def ppo(low=0.2, high=0.2, dual=None, kl=None):
    """kl: beta(at), its value(r, x), its coefficient(r, x)."""

    def value(lp, at):
        loss = clipped_surrogate(exp(lp - at.old), at.adv, low, high, dual)
        return loss + kl[0](at) * kl[1](exp(lp - at.old), lp - at.ref) if kl else loss

    def coefficient(at):
        c = 0.0 if is_clipped(at.ratio, at.adv, low, high, dual) else at.ratio * at.adv
        return c - kl[0](at) * kl[2](at.ratio, at.x) if kl else c

    return value, coefficient


def k2(beta):
    return beta, lambda r, x: x * x / 2, lambda r, x: x


def k3_grpo(beta):
    return beta, lambda r, x: exp(-x) - 1 + x, lambda r, x: 1 - exp(-x)


def k3(beta):
    return beta, lambda r, x: r * (exp(-x) - 1 + x), lambda r, x: r * x


def weighted(weight, low=0.2, high=0.28):
    """weight(at): frozen, on DAPO's surrogate."""
    value, coefficient = ppo(low, high)
    return lambda lp, at: weight(at) * value(lp, at), lambda at: weight(at) * coefficient(at)


def one_way(low=0.8, high=1.2, exponent=lambda delta: -delta, policy=lambda at: at.lp):
    def weight(at):
        if not at.active:
            return 1.0
        return clip(exp(exponent(sign(at.adv) * (policy(at) - at.ref))), low, high)

    return weighted(weight)


def narrowed(cancelled=1.0):
    """at.weight: the measured signal, whose own oracle is in test_owpo_variants.py."""

    def weight(at):
        share = min(1.0, 2 * cancelled * at.weight / (0.2 * (1 + at.weight) + 0.2 * (1 - at.weight)))
        delta = sign(at.adv) * at.x
        return clip(exp(-delta), 1 - 0.2 * share, 1 + 0.2 * share) if at.active else 1.0

    return weighted(weight)


def while_ahead():
    """at.weight: the lower bound of the step."""
    return weighted(lambda at: clip(exp(-sign(at.adv) * at.x), at.weight, 1.2) if at.active else 1.0)


def bounded():
    value, coefficient = one_way(exponent=lambda delta: -abs(delta))

    def pull(at):
        return 0.2 * clip(-at.x, -1, 1)

    return (
        lambda lp, at: value(lp, at) - exp(lp - at.old) * pull(at),
        lambda at: coefficient(at) + at.ratio * pull(at),
    )


def gspo():
    def ratio(at):
        return exp(sum(a - b for a, b in zip(at.lps, at.olds, strict=True)) / len(at.lps))

    def value(lp, at):
        return clipped_surrogate(ratio(at) * exp(lp - at.lp), at.adv, 3e-4, 4e-4)

    return value, lambda at: 0.0 if is_clipped(ratio(at), at.adv, 3e-4, 4e-4) else ratio(at) * at.adv


def cispo():
    return lambda lp, at: -clip(at.ratio, 0, 5) * at.adv * lp, lambda at: clip(at.ratio, 0, 5) * at.adv


def opd(student=lambda at: at.lp):
    def advantage(at):
        return at.ref - student(at)

    return lambda lp, at: -exp(lp - at.old) * advantage(at), lambda at: at.ratio * advantage(at)


def mopd():
    def coefficient(at):
        return (at.ratio if 0.2 <= at.ratio <= 5 else 0.0) * (at.ref - at.lp + 5 * at.adv)

    return lambda lp, at: -coefficient(at) * lp, coefficient


def fipo(half_life=32.0, low=1.0):
    def ratios(at):
        return [exp(a - b) for a, b in zip(at.lps, at.olds, strict=True)]

    def kept(at):
        return not at.adv < 0 or sum(r > 10 for r in ratios(at)) <= 1

    def f(at):
        moves = [log(r) if log(r) <= log(10) else 0.0 for r in ratios(at)]
        future = sum(2 ** (-(k - at.t) / half_life) * moves[k] for k in range(at.t, len(moves)))
        weight = clip(exp(future), low, 1.2)
        return clip(weight, 0.8, 1.0) if at.adv < 0 and at.ratio > 4 else weight

    def value(lp, at):
        return kept(at) * clipped_surrogate(exp(lp - at.old), f(at) * at.adv, 0.2, 0.28, 10)

    def coefficient(at):
        lost = not kept(at) or is_clipped(at.ratio, at.adv, 0.2, 0.28, 10)
        return 0.0 if lost else f(at) * at.ratio * at.adv

    return value, coefficient


ORACLES = {
    "reinforce": reinforce(),
    "rloo": reinforce(),
    "rest": reinforce(),
    "ppo": ppo(),
    "ppo-1.5": ppo(dual=1.5),
    "dr_grpo": ppo(),
    "dapo": ppo(high=0.28),
    "grpo": ppo(kl=k3_grpo(lambda at: 0.04)),
    "grpo-0.0": ppo(),
    "sym_dapo": ppo(high=0.28, kl=k2(lambda at: 1e-3)),
    "sym_dapo-k3-0.5": ppo(high=0.28, kl=k3(lambda at: 0.5)),
    "kdrl": ppo(kl=k2(lambda at: max(5e-3 - 5e-5 * at.step, 1e-3))),
    "gspo": gspo(),
    "cispo": cispo(),
    "opd": opd(),
    "opd-old": opd(student=lambda at: at.old),
    "mopd": mopd(),
    "fipo": fipo(),
    "fipo-False-2.0": fipo(half_life=2.0, low=0.8),
    "owpo": one_way(),
    "owpo-old": one_way(policy=lambda at: at.old),
    "no_asym": one_way(exponent=lambda delta: -abs(delta)),
    "no_locking": one_way(exponent=lambda delta: max(-delta, 0)),
    "no_accel": one_way(exponent=lambda delta: min(-delta, 0)),
    "inverted": one_way(exponent=lambda delta: delta),
    "shuffled": weighted(lambda at: at.weight),
    "owpo_narrowed": narrowed(),
    "owpo_narrowed-0.2": narrowed(0.2),
    "owpo_while_ahead": while_ahead(),
    "owpo_bounded": bounded(),
}
# k1+ and k3+ have a gradient that is not their value's, so no finite difference; they are in test_kl.py.
STRAIGHT_THROUGH = {"sym_dapo-k1+-0.5", "sym_dapo-k3+-0.5"}


def test_every_objective_has_an_oracle():
    assert {entry.name for entry in entries()} <= set(ORACLES)
    assert set(VARIANT_IDS) - STRAIGHT_THROUGH == set(ORACLES)


def tokens_of(batch):
    for row in range(batch.logp.shape[0]):
        length = int(batch.mask[row].sum())
        lps, olds = batch.logp[row, :length].tolist(), batch.old_logp[row, :length].tolist()
        for t in range(length):
            yield (
                (row, t),
                At(
                    t=t,
                    lps=lps,
                    olds=olds,
                    ref=batch.ref_logp[row, t].item(),
                    adv=batch.advantage[row].item(),
                    active=bool(batch.active[row]),
                    weight=1.0 if batch.weight is None else batch.weight[row, t].item(),
                    step=batch.step,
                ),
            )


VALUES = dict(zip(VARIANT_IDS, VARIANTS, strict=True))


@pytest.mark.parametrize("scale", [1, 6], ids=["near", "far"])
@pytest.mark.parametrize("variant", ORACLES)
def test_loss_and_gradient_are_the_oracles(variant, scale):
    """`far` widens the distance to pi_old sixfold, so that dual clips, caps and dropped responses occur."""
    batch = random_batch()
    batch = type(batch)(**(vars(batch) | {"logp": batch.old_logp + scale * (batch.logp - batch.old_logp)}))
    chosen, batch = prepared(*VALUES[variant], batch)
    _, gradient, result = loss_and_gradient(chosen, batch)
    value, coefficient = ORACLES[variant]
    for place, at in tokens_of(batch):
        assert result.loss[place].item() == pytest.approx(value(at.lp, at), abs=1e-9), place
        assert -gradient[place].item() == pytest.approx(coefficient(at), rel=1e-9, abs=1e-9), place
        h = 1e-6
        difference = (value(at.lp + h, at) - value(at.lp - h, at)) / (2 * h)
        assert gradient[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-6), place


def test_the_far_batch_reaches_every_branch():
    """The oracle test would be empty where no token is capped, dual-clipped or dropped."""
    batch = random_batch()
    batch = type(batch)(**(vars(batch) | {"logp": batch.old_logp + 6 * (batch.logp - batch.old_logp)}))
    ratio = (batch.logp - batch.old_logp).exp()[batch.mask]
    assert (ratio > 10).any()
    assert (ratio < 0.2).any()
    for name, stat in (("cispo", "clipped"), ("mopd", "clipped"), ("fipo", "dropped"), ("owpo", "saturated")):
        chosen, ready = prepared(name, {}, batch)
        share = chosen(ready).stats[stat][batch.mask].double().mean()
        assert 0 < share < 1, (name, stat)
