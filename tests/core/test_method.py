"""The properties that the method claims (arXiv 2605.22156, section 4) and what follows from its weight."""

import math
from dataclasses import replace

import pytest
import torch
from core_batches import coefficients, loss_and_gradient, random_batch, sign, tokens

from owpo.core import objective

ADVANTAGES = [2.0, 0.3, -0.3, -2.0]
DEVIATIONS = [-30.0, -3.0, -0.3, -0.1, -1e-3, 0.0, 1e-3, 0.1, 0.3, 3.0, 30.0]
LOW, HIGH = 0.8, 1.2
WEIGHTED = ["owpo", "no_asym", "no_locking", "no_accel", "inverted"]


def w(delta, low=LOW, high=HIGH):
    return min(max(math.exp(-delta), low), high)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_1_the_reference_never_turns_a_token(name, advantage):
    coefficient = coefficients(objective(name), tokens(advantage=advantage, x=DEVIATIONS))
    assert all(LOW <= c / advantage <= HIGH for c in coefficient)


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_2_behind_is_accelerated_past_is_locked(advantage):
    for x, c in zip(
        DEVIATIONS, coefficients(objective("owpo"), tokens(advantage=advantage, x=DEVIATIONS)), strict=True
    ):
        weight, delta = c / advantage, sign(advantage) * x
        assert weight == pytest.approx(w(delta), rel=1e-12)
        assert (weight > 1) is (delta < 0)
        assert (weight < 1) is (delta > 0)


def psi(delta):
    """The integral of w(u) - 1 from 0 to delta, piece by piece."""
    if delta < -math.log(HIGH):
        edge = -math.log(HIGH)
        return psi(edge) + (HIGH - 1) * (delta - edge)
    if delta > -math.log(LOW):
        edge = -math.log(LOW)
        return psi(edge) + (LOW - 1) * (delta - edge)
    return 1 - math.exp(-delta) - delta


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_3_locally_it_climbs_the_policy_gradient_objective_plus_a_shaped_one(advantage):
    """A log pi + |A| psi(delta), differentiated numerically in log pi, is w A."""

    def surrogate(x):
        return advantage * x + abs(advantage) * psi(sign(advantage) * x)

    for x, c in zip(
        DEVIATIONS, coefficients(objective("owpo"), tokens(advantage=advantage, x=DEVIATIONS)), strict=True
    ):
        slope = (surrogate(x + 1e-6) - surrogate(x - 1e-6)) / 2e-6
        assert c == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("spread", [0.01, 0.3, 10.0])
def test_4_the_second_moment_stays_within_the_bands_squares(spread):
    batch = random_batch()
    noise = torch.randn(batch.logp.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    batch = replace(batch, ref_logp=batch.logp + spread * noise, active=None)
    plain = loss_and_gradient(objective("dapo"), batch)[1].square().sum()
    weighted = loss_and_gradient(objective("owpo"), batch)[1].square().sum()
    assert LOW**2 * plain <= weighted <= HIGH**2 * plain
    past = replace(batch, ref_logp=batch.logp - 9 * batch.advantage_BT.sign())
    locked = loss_and_gradient(objective("owpo"), past)[1].square().sum()
    assert locked.item() == pytest.approx(LOW**2 * plain.item())


@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_5_a_quadratic_kl_turns_a_token_past_a_over_beta_and_owpo_does_not(beta, advantage):
    edge = abs(advantage) / beta
    for delta in (-edge, 0.0, 0.5 * edge, 0.99 * edge, 1.01 * edge, 3 * edge):
        batch = tokens(advantage=advantage, x=sign(advantage) * delta)
        kl = coefficients(objective("sym_dapo", kl_beta=beta), batch)[0] / advantage
        assert kl == pytest.approx(1 - beta / abs(advantage) * delta, abs=1e-9)
        assert (kl < 0) is (delta > edge)
        assert coefficients(objective("owpo"), batch)[0] / advantage >= LOW


def test_6_it_is_the_clipped_surrogate_of_the_advantage_w_a():
    batch = replace(random_batch(), active=None)
    result = objective("owpo")(batch)
    weighted = replace(batch, advantage=result.stats["weight"] * batch.advantage_BT)
    plain = objective("dapo")(weighted)
    torch.testing.assert_close(result.loss, plain.loss, rtol=1e-14, atol=0)
    assert torch.equal(result.stats["clipped"], plain.stats["clipped"])


def same(one, other, batch):
    loss, gradient, _ = loss_and_gradient(one, batch)
    other_loss, other_gradient, _ = loss_and_gradient(other, batch)
    return torch.equal(loss, other_loss) and torch.equal(gradient, other_gradient)


def test_7_without_a_band_or_at_the_reference_it_is_dapo():
    batch, dapo = random_batch(), objective("dapo")
    assert same(objective("owpo", w_low=1, w_high=1), dapo, batch)
    assert not same(objective("owpo"), dapo, batch)
    at_reference = replace(batch, ref_logp=batch.logp)
    for name in WEIGHTED:
        assert same(objective(name), dapo, at_reference)
    # Right after ref <- policy pi_old is the reference too.
    assert same(objective("owpo", weight_policy="old"), dapo, replace(batch, ref_logp=batch.old_logp))


def test_7_half_bands_meet_in_the_whole():
    """Locking alone and acceleration alone part from DAPO on disjoint tokens, and OWPO is both."""
    batch = random_batch()
    plain = objective("dapo")(batch).loss
    part = {name: objective(name)(batch).loss - plain for name in ("owpo", "no_locking", "no_accel")}
    assert not (part["no_locking"] * part["no_accel"]).any()
    torch.testing.assert_close(part["no_locking"] + part["no_accel"], part["owpo"])


def test_8_it_is_dapo_plus_a_bounded_distillation():
    """w A = A + |A| h, where h pulls to the reference, is at most 0.2, and is 0 without a deviation."""
    for advantage in (*ADVANTAGES, 0.0):
        batch = tokens(advantage=advantage, x=DEVIATIONS)
        for x, c in zip(DEVIATIONS, coefficients(objective("owpo"), batch), strict=True):
            pi_over_ref = math.exp(x)
            if advantage > 0:
                h = min(max(1 / pi_over_ref, LOW), HIGH) - 1
            else:
                h = 1 - min(max(pi_over_ref, LOW), HIGH)
            assert c == pytest.approx(advantage + abs(advantage) * h, rel=1e-12)
            assert abs(h) <= 0.2 + 1e-12
            assert (h > 0) is (x < 0)
            assert (h == 0) is (x == 0)


def test_8_mopd_is_the_same_sum_with_an_unbounded_pull():
    """At alpha = 5 and |A| = 1 its pull is -x / 5: larger than OWPO's can be where |x| > 1."""
    for advantage in (1.0, -1.0):
        batch = tokens(advantage=advantage, x=[-4.0, -0.9, 0.9, 4.0])
        mopd = [c / 5 - advantage for c in coefficients(objective("mopd"), batch)]
        assert mopd == pytest.approx([0.8, 0.18, -0.18, -0.8])
        assert [abs(pull) > 0.2 for pull in mopd] == [True, False, False, True]


def expected_coefficient(name, chance, x):
    """E[wA] at a token that is followed by A = +1 with this chance and by A = -1 otherwise."""
    right = coefficients(objective(name), tokens(advantage=1.0, x=x))[0]
    wrong = coefficients(objective(name), tokens(advantage=-1.0, x=x))[0]
    return chance * right + (1 - chance) * wrong


def test_9_one_way_for_every_sample_is_not_one_way_in_expectation():
    assert expected_coefficient("owpo", 0.55, 1.0) == pytest.approx(-0.10)
    assert expected_coefficient("owpo", 0.55, 0.0) == pytest.approx(0.10)
    assert expected_coefficient("no_asym", 0.55, 1.0) == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("name", "threshold"), [("owpo", 0.2), ("no_accel", 1 / 9), ("no_locking", 1 / 11), ("no_asym", 0.0)]
)
def test_9_the_signal_below_which_the_expectation_turns(name, threshold):
    """In E[A] / E|A| = 2 chance - 1, at a token well past its reference."""
    assert expected_coefficient(name, (1 + threshold + 0.01) / 2, 3.0) > 0
    assert (expected_coefficient(name, (1 + threshold - 0.01) / 2, 3.0) > 0) is False


def test_rlsd_with_the_reference_as_teacher_has_the_same_weight():
    """arXiv 2604.03128 at lambda = 1: A' = clip(e^(sgn(A) d), 1 - eps, 1 + eps) A, d = log teacher/pi."""
    batch = replace(random_batch(), active=None)
    teacher_ahead = batch.ref_logp - batch.logp
    factor = (batch.advantage_BT.sign() * teacher_ahead).exp().clamp(1 - 0.2, 1 + 0.2)
    rlsd = objective("dapo")(replace(batch, advantage=factor * batch.advantage_BT))
    torch.testing.assert_close(objective("owpo")(batch).loss, rlsd.loss)


def test_shuffling_keeps_the_weights_and_moves_them():
    batch = random_batch()
    shuffled = objective("shuffled")
    weight = shuffled.prepare(replace(batch, logp=batch.old_logp), torch.Generator().manual_seed(0)).weight
    own = objective("owpo")(replace(batch, logp=batch.old_logp)).stats["weight"]
    has_weight = batch.mask & batch.active.unsqueeze(1) & (batch.advantage_BT != 0)
    assert torch.equal(weight[has_weight].sort().values, own[has_weight].sort().values)
    assert not torch.equal(weight[has_weight], own[has_weight])
    assert (weight[batch.mask & ~has_weight] == 1).all()
    again = shuffled.prepare(replace(batch, logp=batch.old_logp), torch.Generator().manual_seed(0)).weight
    assert torch.equal(weight, again)
