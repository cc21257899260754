"""Advantages by hand, and the corner cases that turn float noise into a direction."""

import pytest
import torch

from owpo.core.advantage import ESTIMATORS, estimate_advantage, overlong_penalty, zero_variance

ONE_OF_FOUR = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
GROUP_KINDS = ["group_std", "group_mean", "leave_one_out"]
COMPARING_KINDS = [kind for kind in ESTIMATORS if kind != "above_threshold"]


def advantage(kind, reward_PG=ONE_OF_FOUR, **keywords):
    return estimate_advantage(reward_PG, kind, **keywords)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("group_std", [1.5, -0.5, -0.5, -0.5]),
        ("group_mean", [0.75, -0.25, -0.25, -0.25]),
        ("leave_one_out", [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("batch_mean", [0.75, -0.25, -0.25, -0.25]),
        ("batch_std", [1.5, -0.5, -0.5, -0.5]),
        ("above_threshold", [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_one_right_of_four_by_hand(kind, expected):
    assert advantage(kind)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_std_is_bessels():
    """Its ratio to the population's is sqrt(G / (G - 1)): 1.732 against 1.5 here, 1.033 at G = 16."""
    by_population = 0.75 / ONE_OF_FOUR.std(correction=0).item()
    assert by_population == pytest.approx(1.732, abs=1e-3)
    assert advantage("group_std")[0, 0].item() == pytest.approx(by_population * (3 / 4) ** 0.5, abs=1e-5)


def test_a_batch_baseline_reads_every_group_and_a_group_baseline_only_its_own():
    reward_PG = torch.tensor([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    assert advantage("batch_mean", reward_PG)[0].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert advantage("group_mean", reward_PG).tolist() == [[0, 0], [-1, 1], [0, 0]]
    whitened = advantage("batch_std", reward_PG)
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6)
    assert whitened.std().item() == pytest.approx(1, abs=1e-4)


def test_leave_one_out_is_the_group_mean_rescaled():
    reward_PG = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others_PG = (reward_PG.sum(dim=1, keepdim=True) - reward_PG) / 7
    leave_one_out = advantage("leave_one_out", reward_PG)
    torch.testing.assert_close(leave_one_out, reward_PG - others_PG)
    torch.testing.assert_close(leave_one_out, 8 / 7 * advantage("group_mean", reward_PG))


@pytest.mark.parametrize("kind", COMPARING_KINDS)
def test_float_noise_is_not_a_verdict(kind):
    """0.1 + 0.2 and 0.3 differ in the last bit; that must not become an advantage, not even a tiny one."""
    reward_PG = torch.tensor([[0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]], dtype=torch.float64)
    assert reward_PG.unique().numel() == 2
    assert not advantage(kind, reward_PG).any()
    assert zero_variance(reward_PG).tolist() == [True]


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_a_group_all_right_or_all_wrong_has_no_advantage(kind):
    reward_PG = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert advantage(kind, reward_PG).any(dim=1).tolist() == [False, False, True]
    assert zero_variance(reward_PG).tolist() == [True, True, False]


def test_a_shaped_reward_hides_a_group_without_verdict():
    """Dynamic sampling must see the verifier's reward: an overlong penalty spreads an all-wrong group."""
    verdict_PG = torch.tensor([[-1.0, -1.0]])
    shaped_PG = verdict_PG + overlong_penalty(torch.tensor([[100, 20000]]), 20480, 4096)
    assert zero_variance(verdict_PG).tolist() == [True]
    assert zero_variance(shaped_PG).tolist() == [False]


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_a_group_of_one_has_nothing_to_compare(kind):
    with pytest.raises(ValueError, match="each group has 1; sample at least 2 responses"):
        advantage(kind, torch.ones(3, 1))


@pytest.mark.parametrize("kind", ["batch_mean", "batch_std"])
def test_a_batch_of_groups_of_one_can_be_compared(kind):
    assert advantage(kind, torch.tensor([[1.0], [0.0]])).sign().tolist() == [[1], [-1]]
    with pytest.raises(ValueError, match="the batch has 1"):
        advantage(kind, torch.ones(1, 1))


def test_above_threshold_is_strict_and_takes_single_responses():
    reward_PG = torch.tensor([[0.7], [0.71]])
    assert advantage("above_threshold", reward_PG, threshold=0.7).tolist() == [[0], [1]]
    assert advantage("above_threshold", reward_PG).tolist() == [[1], [1]]


def test_integer_and_bool_rewards_are_rewards():
    for dtype in (torch.bool, torch.int64):
        assert advantage("group_mean", ONE_OF_FOUR.to(dtype)).tolist() == [[0.75, -0.25, -0.25, -0.25]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_reward_that_is_no_number_is_named(kind, bad):
    reward_PG = torch.tensor([[0.0, 1.0], [0.0, bad]])
    with pytest.raises(ValueError, match="prompt 1, response 1"):
        advantage(kind, reward_PG)


def test_unknown_kinds_and_shapes():
    with pytest.raises(
        ValueError, match=r"unknown advantage estimator 'group_sdt'\. Did you mean 'group_std'"
    ):
        advantage("group_sdt")
    with pytest.raises(ValueError, match=r"\[prompts, responses per prompt\], got shape \[4\]"):
        advantage("group_std", ONE_OF_FOUR[0])


@pytest.mark.parametrize(
    ("length", "penalty"), [(10, 0), (16384, 0), (18432, -0.5), (20480, -1), (21000, -1)]
)
def test_overlong_penalty_by_hand(length, penalty):
    assert overlong_penalty(torch.tensor([length]), 20480, 4096).tolist() == [penalty]


@pytest.mark.parametrize("cache", [0, -1, 20481])
def test_an_overlong_cache_that_does_not_fit(cache):
    with pytest.raises(ValueError, match="cache"):
        overlong_penalty(torch.tensor([1]), 20480, cache)
