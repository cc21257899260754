"""KL estimators: their values and gradients in numbers, and what the wrong ones would do."""

import math

import pytest
import torch
from core_batches import coefficients, tokens

from owpo.core import objective
from owpo.core.kl import KL_ESTIMATORS, kl_term


def value_and_slope(estimator, x, ratio=1.0):
    logp = torch.tensor([[-2.0]], dtype=torch.float64, requires_grad=True)
    term = kl_term(logp, logp.detach() - x, logp.detach() - math.log(ratio), estimator)
    (slope,) = torch.autograd.grad(term.sum(), logp)
    return term.item(), slope.item()


@pytest.mark.parametrize(
    ("estimator", "x", "value", "slope"),
    [
        ("k2", 0.5, 0.125, 0.5),
        ("k2", -0.5, 0.125, -0.5),
        ("k3_grpo", 0.5, 0.106531, 0.393469),
        ("k3_grpo", -0.5, 0.148721, -0.648721),
        ("k3", 0.5, 0.106531, 0.5),
        ("k3", -0.5, 0.148721, -0.5),
        ("k1+", 0.5, 0.5, 0.5),
        ("k1+", -0.5, -0.5, -0.5),
        ("k3+", 0.5, 0.106531, 0.5),
        ("k3+", -0.5, 0.148721, -0.5),
    ],
)
def test_values_and_slopes_by_hand(estimator, x, value, slope):
    assert value_and_slope(estimator, x) == pytest.approx((value, slope), abs=1e-6)


@pytest.mark.parametrize("x", [-1.3, 0.2, 2.0])
def test_straight_through_gradients_are_k2s(x):
    slope = value_and_slope("k2", x)[1]
    assert value_and_slope("k1+", x)[1] == slope
    assert value_and_slope("k3+", x)[1] == slope


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("x", [-1.3, 0.2, 2.0])
def test_ratio_corrected_k3_has_the_slope_r_x(ratio, x):
    value, slope = value_and_slope("k3", x, ratio)
    assert value == pytest.approx(ratio * (math.exp(-x) - 1 + x), rel=1e-12)
    assert slope == pytest.approx(ratio * x, rel=1e-12)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("x", [-60.0, -12.0, -3.0, 12.0, 60.0])
def test_no_clamp_silences_a_token_far_from_the_reference(estimator, x):
    """A clamp of the value at 10, as is common with k3, has no gradient below x = -2.61 or above x = 11."""
    value, slope = value_and_slope(estimator, x)
    assert math.isfinite(value)
    assert slope * x > 0
    assert abs(slope) >= 1 - math.exp(-3)


def expected_slope(estimator, policy_logits, reference_logits, old_logits):
    """The estimator's gradient in the logits, averaged exactly over the tokens that pi_old samples."""
    logits = policy_logits.clone().requires_grad_()
    logp_V = logits.log_softmax(0)
    old_V, ref_V = old_logits.log_softmax(0), reference_logits.log_softmax(0)
    term_V = kl_term(logp_V.unsqueeze(0), ref_V.unsqueeze(0), old_V.unsqueeze(0), estimator)[0]
    # Each token's own term, weighted by how often pi_old samples it; the sampling itself has no gradient.
    (gradient,) = torch.autograd.grad((old_V.exp() * term_V).sum(), logits)
    return gradient


def exact_gradient(policy_logits, reference_logits):
    logits = policy_logits.clone().requires_grad_()
    logp_V = logits.log_softmax(0)
    kl = (logp_V.exp() * (logp_V - reference_logits.log_softmax(0))).sum()
    return torch.autograd.grad(kl, logits)[0]


def test_whose_expected_gradient_is_the_reverse_kls():
    """k2, k1+ and k3+ on-policy, k3 on- and off-policy; GRPO's k3 on neither."""
    generator = torch.Generator().manual_seed(0)
    policy, reference, old = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    exact = exact_gradient(policy, reference)
    for estimator in ("k2", "k1+", "k3+", "k3"):
        torch.testing.assert_close(expected_slope(estimator, policy, reference, policy), exact)
    torch.testing.assert_close(expected_slope("k3", policy, reference, old), exact)
    for estimator, samples_from in (("k3_grpo", policy), ("k2", old), ("k3_grpo", old)):
        error = (expected_slope(estimator, policy, reference, samples_from) - exact).norm() / exact.norm()
        assert error > 0.1, estimator


def test_k1_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"averages to zero.*Use 'k2'"):
        objective("grpo", kl_estimator="k1")


def test_an_unknown_estimator_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"sym_dapo.kl_estimator must be one of 'k2', .* got 'k3_grp'.*'k3_grpo'\?"
    ):
        objective("sym_dapo", kl_estimator="k3_grp")


def test_kdrl_is_the_policy_gradient_of_a_minus_beta_x_on_policy():
    deviations = [-2.0, -0.1, 0.4, 3.0]
    for advantage in (1.5, -0.5, 0.0):
        batch = tokens(advantage=advantage, x=deviations)
        expected = [advantage - 5e-3 * x for x in deviations]
        assert coefficients(objective("kdrl"), batch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "beta"), [(0, 5e-3), (1, 4.95e-3), (40, 3e-3), (80, 1e-3), (5000, 1e-3)])
def test_kdrl_anneals_by_the_batchs_step(step, beta):
    batch = tokens(advantage=0.0, x=2.0, step=step)
    assert coefficients(objective("kdrl"), batch) == pytest.approx([-beta * 2.0], rel=1e-9)


def test_a_kl_of_weight_zero_needs_no_reference():
    needs = objective("grpo", kl_beta=0).needs
    assert (needs.reference, needs.zero_advantage) == (False, False)
    needs = objective("grpo").needs
    assert (needs.reference, needs.zero_advantage) == (True, True)


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("grpo", {"kl_beta": -0.1}, "KL weight must not be negative"),
        ("kdrl", {"beta_end": 0.1}, "beta_end must lie in"),
        ("kdrl", {"beta_decay": -1e-3}, "beta_decay"),
    ],
)
def test_kl_weights_out_of_bounds(name, hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        objective(name, **hyper_parameters)
