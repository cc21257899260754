"""What the variants of OWPO promise, on steps whose contexts are shared by some responses and not by others."""

import math
from dataclasses import replace

import pytest
import torch
from core_batches import (
    GROUP,
    PROMPTS,
    ROWS,
    TOKENS,
    coefficients,
    contexts_of,
    loss_and_gradient,
    prepared,
    random_batch,
    rows_of,
    tokens,
)

from owpo.core import TokenBatch, objective
from owpo.core.advantage import estimate_advantage

VARIANTS = ["owpo_narrowed", "owpo_while_ahead", "owpo_bounded"]


def step_of(seed, spread=2.0, normalised=True):
    """An on-policy step of binary rewards, whose log ratios to the reference are arbitrary at every token."""
    generator = torch.Generator().manual_seed(seed)
    reward = torch.rand(PROMPTS, GROUP, generator=generator) < torch.rand(PROMPTS, 1, generator=generator)
    advantage = estimate_advantage(reward.double(), "group_std" if normalised else "batch_mean").flatten()
    logp = -torch.rand(ROWS, TOKENS, generator=generator, dtype=torch.float64)
    ratio = spread * torch.randn(ROWS, TOKENS, generator=generator, dtype=torch.float64)
    return TokenBatch(
        logp=logp,
        old_logp=logp,
        ref_logp=logp + ratio,
        advantage=advantage,
        mask=torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (ROWS, 1), generator=generator),
        context=contexts_of(torch.randint(2, (ROWS, TOKENS), generator=generator)),
    )


def tokens_by_context(batch):
    found = {}
    for row, t in batch.mask.nonzero().tolist():
        found.setdefault(batch.context[row, t].item(), []).append((row, t))
    return list(found.values())


def mean_advantages(name, hyper_parameters, batch):
    """Of every context: the mean of A, of |A|, and of the coefficient that the objective gives."""
    chosen, ready = prepared(name, hyper_parameters, batch)
    coefficient = -loss_and_gradient(chosen, ready)[1]
    for places in tokens_by_context(batch):
        advantages = [batch.advantage[row].item() for row, _ in places]
        count = len(places)
        yield (
            sum(advantages) / count,
            sum(map(abs, advantages)) / count,
            sum(coefficient[place].item() for place in places) / count,
        )


BANDS = [{}, {"w_low": 0.5, "w_high": 1.1}, {"w_low": 0.9, "w_high": 3.0}, {"w_low": 1.0, "w_high": 1.5}]


@pytest.mark.parametrize("cancelled", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("band", BANDS, ids=str)
def test_narrowed_leaves_the_mean_of_every_context_its_sign(band, cancelled):
    """Whatever the log ratios, no more of the mean advantage is taken than max_cancelled."""
    worst = 1.0
    for seed in range(40):
        batch = step_of(seed, normalised=seed % 2 == 0)
        hyper_parameters = {**band, "max_cancelled": cancelled}
        for plain, size, weighted in mean_advantages("owpo_narrowed", hyper_parameters, batch):
            left = weighted * math.copysign(1, plain)
            assert left >= (1 - cancelled) * abs(plain) - 1e-12 * size
            if abs(plain) > 1e-9:
                worst = min(worst, left / abs(plain))
    assert worst < 1 - 0.5 * min(cancelled, 0.2), "no context came near the bound"


@pytest.mark.parametrize("band", BANDS, ids=str)
def test_narrowed_is_no_narrower_than_it_must_be(band):
    """Where the policy is far past its reference, the mean of a context with a weak signal is left at just 0."""
    advantage = torch.tensor([1.0, 1.0, -1.9, 0.3]).double()  # m = 0.6 / 4.2
    width = 1 - objective("owpo", **band).config.w_low + objective("owpo", **band).config.w_high - 1
    logp = torch.full((4, 1), -1.0).double()
    mask = torch.ones(4, 1, dtype=torch.bool)
    context = torch.zeros(4, 1, dtype=torch.int64)
    batch = TokenBatch(
        logp=logp, old_logp=logp, ref_logp=logp - 9, advantage=advantage, mask=mask, context=context
    )
    ((plain, size, narrowed),) = mean_advantages("owpo_narrowed", band, batch)
    ((_, _, whole),) = mean_advantages("owpo", band, batch)
    assert plain > 0 and size == pytest.approx(4.2 / 4) and width > 0
    assert narrowed == pytest.approx(max(whole, 0.0), abs=1e-12)


def test_owpo_turns_the_mean_of_some_contexts():
    """Else the tests above would say nothing."""
    turned = [
        plain * weighted < 0
        for seed in range(40)
        for plain, size, weighted in mean_advantages("owpo", {}, step_of(seed, normalised=False))
        if abs(plain) > 1e-9 * size
    ]
    assert 0 < sum(turned) < len(turned)


def test_the_signal_is_that_of_the_responses_that_share_a_context():
    batch = random_batch()
    chosen, ready = prepared("owpo_narrowed", {}, batch)
    shared = 0
    for places in tokens_by_context(batch):
        advantages = [batch.advantage[row].item() for row, _ in places]
        size = sum(map(abs, advantages))
        signal = abs(sum(advantages)) / size if size else 0.0
        for place in places:
            assert ready.weight[place].item() == pytest.approx(signal, abs=1e-12)
        if len(places) == 1 and size:
            assert signal == 1
        shared += 0.01 < signal < 0.99
    assert shared > 3
    assert torch.equal(chosen(ready).stats["signal"][batch.mask], ready.weight[batch.mask])


def test_narrowed_without_shared_contexts_is_owpo():
    batch = random_batch()
    alone = replace(batch, context=torch.arange(ROWS * TOKENS).view(ROWS, TOKENS))
    assert same("owpo_narrowed", {}, "owpo", alone)
    assert not same("owpo_narrowed", {}, "owpo", batch)


def test_narrowed_in_a_context_without_signal_is_dapo():
    """As at the first token of a group that all its responses share: group advantages sum to 0."""
    batch = replace(
        step_of(1), context=(torch.arange(ROWS) // GROUP).unsqueeze(1).expand(ROWS, TOKENS).clone()
    )
    batch = replace(batch, mask=torch.ones_like(batch.mask))
    chosen, ready = prepared("owpo_narrowed", {}, batch)
    assert chosen(ready).stats["signal"].max() < 1e-12
    torch.testing.assert_close(chosen(ready).loss, objective("dapo")(batch).loss)


def same(name, hyper_parameters, other, batch):
    chosen, ready = prepared(name, hyper_parameters, batch)
    loss, gradient, _ = loss_and_gradient(chosen, ready)
    other_loss, other_gradient, _ = loss_and_gradient(objective(other), batch)
    return torch.equal(loss, other_loss) and torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_band_or_at_the_reference_they_are_dapo(seed):
    batch = random_batch(seed=seed)
    for name in ("owpo_narrowed", "owpo_while_ahead"):
        assert same(name, {"w_low": 1, "w_high": 1}, "dapo", batch)
    for name in VARIANTS:
        assert not same(name, {}, "dapo", batch)
        assert same(name, {}, "dapo", replace(batch, ref_logp=batch.logp))


def lead_of(batch):
    """Sum of A (log ref - log pi_old), by scalars."""
    return sum(
        batch.advantage[row].item() * (batch.ref_logp[row, t] - batch.old_logp[row, t]).item()
        for row, t in batch.mask.nonzero().tolist()
    )


def test_while_ahead_locks_only_then():
    seen = set()
    for seed in range(20):
        batch = random_batch(seed=seed)
        chosen, ready = prepared("owpo_while_ahead", {}, batch)
        is_ahead = lead_of(batch) > 0
        seen.add(is_ahead)
        stats = chosen(ready).stats
        assert (stats["ahead"][batch.mask] == is_ahead).all()
        assert same("owpo_while_ahead", {}, "owpo" if is_ahead else "no_locking", batch)
        assert bool(stats["locked"].any()) is is_ahead
    assert seen == {True, False}


def test_while_ahead_decides_once_for_the_whole_step():
    """Its micro-batches may disagree among themselves, and all have the step's decision."""
    batch = random_batch(seed=3)
    _, ready = prepared("owpo_while_ahead", {}, batch)
    parts = [rows_of(ready, rows) for rows in torch.arange(ROWS).chunk(8)]
    assert len({lead_of(part) > 0 for part in parts}) == 2
    assert len({part.weight.unique().item() for part in parts}) == 1


def test_bounded_is_one_way_in_expectation_but_for_its_distillation():
    """The verifier's part keeps the sign of E[A] at any signal, and the rest does not depend on A."""
    for x in (-3.0, -0.1, 0.1, 3.0):
        right, wrong, neither = (
            coefficients(objective("owpo_bounded"), tokens(advantage=advantage, x=x))[0]
            for advantage in (1.0, -1.0, 0.0)
        )
        assert neither == pytest.approx(-0.2 * min(max(x, -1), 1))
        assert right - neither == pytest.approx(neither - wrong)
        assert right - neither == pytest.approx(max(math.exp(-abs(x)), 0.8))


def test_bounded_says_where_the_distillation_wins():
    batch = tokens(advantage=[0.1, 0.1, -0.1, 1.0], x=[2.0, -2.0, 2.0, 2.0])
    stats = objective("owpo_bounded")(batch).stats
    assert stats["overruled"].tolist() == [[True, False, False, False]]
    assert stats["distill_clipped"].all()
    assert stats["kl"].tolist() == [[2.0, -2.0, 2.0, 2.0]]


def test_bounded_distils_inactive_samples_and_does_not_weigh_them():
    batch = replace(tokens(advantage=1.0, x=2.0), active=torch.tensor([False]))
    assert coefficients(objective("owpo_bounded"), batch) == pytest.approx([1.0 - 0.2])


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("owpo_narrowed", {"max_cancelled": 0.0}, r"max_cancelled .* must lie in \(0, 1\], got 0.0"),
        ("owpo_narrowed", {"max_cancelled": 1.1}, "above 1 the mean update could turn"),
        ("owpo_narrowed", {"w_low": 0.0}, "w_low must lie in"),
        ("owpo_bounded", {"distill_weight": 0.0}, "distill_weight must be positive.* this is 'no_asym'"),
        ("owpo_bounded", {"distill_bound": -1.0}, "distill_bound must be positive"),
        ("owpo_bounded", {"w_low": 2.0}, "w_low must lie in"),
    ],
)
def test_what_they_refuse(name, hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        objective(name, **hyper_parameters)
