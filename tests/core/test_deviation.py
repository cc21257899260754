"""The one-way weight in numbers, the active-sample schedule, and when a KL would reverse a token."""

import math

import pytest
import torch
from core_batches import coefficients, tokens

from owpo.core import objective
from owpo.core.deviation import active_count, deviation, kl_would_flip, one_way_weight, top_active


def weight_of(advantage, x, rule="one_way"):
    advantage, x = torch.tensor([advantage], dtype=torch.float64), torch.tensor([x], dtype=torch.float64)
    return one_way_weight(deviation(x, torch.zeros_like(x), advantage), 0.8, 1.2, rule).item()


@pytest.mark.parametrize(
    ("advantage", "x", "weight"),
    [
        (1.0, 0.1, 0.904837),
        (1.0, -0.1, 1.105171),
        (1.0, 0.5, 0.8),
        (1.0, -0.5, 1.2),
        (-1.0, 0.1, 1.105171),
        (-1.0, -0.1, 0.904837),
        (0.0, 0.1, 1.0),
        (0.0, -5.0, 1.0),
        (3.0, 0.0, 1.0),
    ],
)
def test_weights_by_hand(advantage, x, weight):
    assert weight_of(advantage, x) == pytest.approx(weight, abs=1e-6)


def test_neither_delta_nor_the_weight_carries_a_gradient():
    logp = torch.zeros(1, 2, requires_grad=True)
    delta = deviation(logp, torch.ones(1, 2), torch.ones(1, 2))
    assert not delta.requires_grad
    assert not one_way_weight(delta + logp, 0.8, 1.2).requires_grad


@pytest.mark.parametrize(
    ("rule", "behind", "past"),
    [("one_way", 1.105171, 0.904837), ("no_asym", 0.904837, 0.904837), ("inverted", 0.904837, 1.105171)],
)
def test_rules_by_hand(rule, behind, past):
    assert weight_of(1.0, -0.1, rule) == pytest.approx(behind, abs=1e-6)
    assert weight_of(1.0, 0.1, rule) == pytest.approx(past, abs=1e-6)


@pytest.mark.parametrize(("name", "behind", "past"), [("no_locking", 1.105171, 1), ("no_accel", 1, 0.904837)])
def test_half_bands_by_hand(name, behind, past):
    stats = objective(name)(tokens(x=[-0.1, 0.1])).stats
    assert stats["weight"][0].tolist() == pytest.approx([behind, past], abs=1e-6)
    assert not stats["saturated"].any()


def test_what_the_stats_of_a_token_say():
    """Behind, at, and past the reference, inside and outside the band; then a token without advantage."""
    batch = tokens(advantage=[1.0] * 5 + [0.0], x=[-0.5, -0.1, 0.0, 0.1, 0.5, 0.5])
    stats = {name: value[0].tolist() for name, value in objective("owpo")(batch).stats.items()}
    assert stats["delta"] == pytest.approx([-0.5, -0.1, 0, 0.1, 0.5, 0])
    assert stats["accelerated"] == [True, True, False, False, False, False]
    assert stats["locked"] == [False, False, False, True, True, False]
    assert stats["saturated"] == [True, False, False, False, True, False]


def test_inactive_samples_take_dapos_step():
    batch = tokens(x=[-0.5, 0.5], active=torch.tensor([False]))
    assert coefficients(objective("owpo"), batch) == pytest.approx([1, 1])
    assert coefficients(objective("owpo"), tokens(x=[-0.5, 0.5])) == pytest.approx([1.2, 0.8])


def test_weight_policy_multiplies_by_the_ratio_inside_the_band():
    """With A > 0 the ratio cancels: w r = ref / old. Evaluated at pi_old, w r keeps it."""
    batch = tokens(ratio=1.1, x=0.05)
    assert coefficients(objective("owpo"), batch) == pytest.approx([math.exp(-0.05) * 1.1])
    old_x = 0.05 - math.log(1.1)
    expected = [math.exp(-old_x) * 1.1]
    assert coefficients(objective("owpo", weight_policy="old"), batch) == pytest.approx(expected)


def test_active_count_falls_linearly_from_the_group_to_one():
    assert [active_count(step, 16, 16) for step in range(16)] == list(range(16, 0, -1))
    assert [active_count(step, 5, 3) for step in (0, 2, 4, 9)] == [3, 2, 1, 1]
    assert active_count(0, 1, 8) == 8


def test_the_rarer_outcome_is_active_first_and_ties_go_by_index():
    advantage_PG = torch.tensor([[-0.5, -0.5, 1.5, -0.5], [0.5, -1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0]])
    assert top_active(advantage_PG, 1).nonzero()[:, 1].tolist() == [2, 1, 0]
    assert top_active(advantage_PG, 2).tolist() == [
        [True, False, True, False],
        [True, True, False, False],
        [True, True, False, False],
    ]
    assert top_active(advantage_PG, 4).all()


def test_scaling_a_group_does_not_change_who_is_active():
    """Only the order of |A| within a group counts, whatever standard deviation it was divided by."""
    advantage_PG = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    scale_P1 = torch.rand(6, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert torch.equal(top_active(advantage_PG, 2), top_active(advantage_PG * scale_P1, 2))


@pytest.mark.parametrize(
    ("advantage", "beta", "delta", "flips"),
    [
        (1.0, 1e-3, 999.0, False),
        (1.0, 1e-3, 1001.0, True),
        (-0.5, 0.1, 4.9, False),
        (-0.5, 0.1, 5.1, True),
        (1.0, 0.1, -50.0, False),
        (0.0, 0.1, 50.0, False),
    ],
)
def test_when_a_kl_would_flip_a_token(advantage, beta, delta, flips):
    """Against the loss that has the KL: its coefficient's sign differs from the advantage's."""
    assert kl_would_flip(torch.tensor(delta), torch.tensor(advantage), beta).item() is flips
    batch = tokens(advantage=advantage, x=math.copysign(1, advantage) * delta)
    (coefficient,) = coefficients(objective("sym_dapo", kl_beta=beta), batch)
    assert (coefficient * advantage < 0) is flips
    assert bool(objective("sym_dapo", kl_beta=beta)(batch).stats["flipped_by_kl"]) is flips


def test_owpo_reports_what_the_papers_kl_would_flip():
    batch = tokens(advantage=1e-3, x=[0.9, 1.1])
    assert objective("owpo")(batch).stats["flipped_by_kl"].tolist() == [[False, True]]
