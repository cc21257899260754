import itertools
import math

import pytest
import torch

from owpo.evaluation.intervals import accuracy_interval, paired_difference, pass_at


def test_mean_and_sampling_error_worked_by_hand() -> None:
    # Problem means 1, 0.5, 0. Only the second varies: variance 1/3 (unbiased) of a sample, 1/12 of its mean.
    accuracy = accuracy_interval([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert accuracy.mean == pytest.approx(0.5)
    assert accuracy.sampling_se == pytest.approx(math.sqrt(1 / 12) / 3)
    assert (accuracy.num_problems, accuracy.samples_per_problem) == (3, 4)


def test_one_sample_a_problem_is_wilsons_interval() -> None:
    # 8 of 10: the textbook's 95% Wilson interval is 0.4902 to 0.9433.
    accuracy = accuracy_interval([[1.0]] * 8 + [[0.0]] * 2)
    assert accuracy.low == pytest.approx(0.4902, abs=1e-4)
    assert accuracy.high == pytest.approx(0.9433, abs=1e-4)
    assert accuracy.sampling_se is None


def test_more_samples_of_decided_problems_tell_nothing_new() -> None:
    grid = torch.tensor([[True]] * 8 + [[False]] * 2)
    once, often = accuracy_interval(grid), accuracy_interval(grid.expand(10, 32))
    assert (often.low, often.high) == (once.low, once.high)
    assert often.sampling_se == 0


def test_effective_problems_by_hand() -> None:
    # Two samples of each of 12 problems, means 0, 0.5 and 1 four times each: p = 0.5, s^2 = 8 * 0.25 / 11,
    # se^2 = s^2 / 12, n = 0.25 / se^2 * (1.95996 / 2.20099)^2 = 16.5 * 0.79298 = 13.084.
    accuracy = accuracy_interval([[0, 0]] * 4 + [[0, 1]] * 4 + [[1, 1]] * 4)
    z2, n = 1.95996**2, 13.084
    half = math.sqrt(z2 * 0.25 / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    assert accuracy.high - 0.5 == pytest.approx(half, abs=1e-4)
    assert 0.5 - accuracy.low == pytest.approx(half, abs=1e-4)


@pytest.mark.parametrize("num_problems", [1, 2, 5, 100])
def test_all_wrong_and_all_right_keep_a_width(num_problems: int) -> None:
    wrong = accuracy_interval(torch.zeros(num_problems, 4))
    right = accuracy_interval(torch.ones(num_problems, 4))
    z2 = 1.95996**2
    assert (wrong.mean, wrong.low) == (0, 0)
    assert wrong.high == pytest.approx(z2 / (num_problems + z2), abs=1e-5)
    assert (right.low, right.high) == pytest.approx((1 - wrong.high, 1))


def simulated_coverage(alpha: float, beta: float, num_problems: int) -> float:
    """The share of evaluations, 4 samples a problem, whose interval holds the mean of Beta(alpha, beta)."""
    generator = torch.Generator().manual_seed(0)
    num_trials, truth = 1500, alpha / (alpha + beta)
    # A Beta variable as a ratio of Gamma variables, as only these take a generator.
    a, b = (
        torch._standard_gamma(
            torch.full((num_trials, num_problems), x, dtype=torch.float64), generator=generator
        )
        for x in (alpha, beta)
    )
    difficulty = (a / (a + b).clamp(min=1e-300)).unsqueeze(2).expand(-1, -1, 4)
    covered = 0
    for correct_NK in torch.bernoulli(difficulty, generator=generator):
        accuracy = accuracy_interval(correct_NK)
        covered += accuracy.low <= truth <= accuracy.high
    return covered / num_trials


@pytest.mark.parametrize(("alpha", "beta"), [(0.21, 0.39), (2.0, 2.0)])
def test_coverage_over_problems(alpha: float, beta: float) -> None:
    assert abs(simulated_coverage(alpha, beta, num_problems=100) - 0.95) < 0.02


@pytest.mark.parametrize(("alpha", "beta", "num_problems"), [(2.0, 98.0, 10), (98.0, 2.0, 30), (2.0, 2.0, 5)])
def test_coverage_near_the_ends_and_with_few_problems_is_not_below_its_promise(
    alpha: float, beta: float, num_problems: int
) -> None:
    assert simulated_coverage(alpha, beta, num_problems) > 0.93


def test_a_higher_level_is_wider() -> None:
    grid = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
    narrow, wide = accuracy_interval(grid, level=0.8), accuracy_interval(grid, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_paired_difference_by_hand() -> None:
    # Differences 0.5, 0, 0.25, 0.25: mean 0.25, variance (0.0625 + 0.0625) / 3, and t(3) = 3.18245 for 95%.
    mean, low, high = paired_difference([1.0, 0.5, 0.25, 0.75], [0.5, 0.5, 0.0, 0.5])
    half = 3.18245 * math.sqrt(0.125 / 3 / 4)
    assert (mean, low, high) == pytest.approx((0.25, 0.25 - half, 0.25 + half), abs=1e-5)


@pytest.mark.parametrize(
    ("level", "num_problems", "t"),
    [(0.95, 2, 12.7062), (0.95, 3, 4.30265), (0.95, 11, 2.22814), (0.99, 31, 2.74999), (0.95, 1001, 1.96234)],
)
def test_student_quantiles_against_the_printed_table(level: float, num_problems: int, t: float) -> None:
    # The differences +-d have a known spread, and a d this small keeps the interval off its cut.
    d, zero = 1e-3, torch.zeros(num_problems, dtype=torch.float64)
    a_N = zero.clone()
    a_N[0] = d  # mean d/N, variance d^2/N, standard error d/N: the half-width is t d/N
    mean, low, high = paired_difference(a_N, zero, level)
    assert (high - mean) * num_problems / d == pytest.approx(t, rel=1e-5)
    assert (mean - low) * num_problems / d == pytest.approx(t, rel=1e-5)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    generator = torch.Generator().manual_seed(0)
    hardness_N = torch.rand(50, generator=generator, dtype=torch.float64) * 0.9
    better_N = hardness_N + 0.05 + 0.05 * torch.rand(50, generator=generator, dtype=torch.float64)
    mean, low, high = paired_difference(better_N, hardness_N)
    assert 0 < low < mean < high
    a, b = (accuracy_interval(values.unsqueeze(1)) for values in (better_N, hardness_N))
    assert a.low < b.high  # unpaired, the two overlap
    assert paired_difference(hardness_N, better_N) == pytest.approx((-mean, -high, -low))


def test_equal_differences_are_no_certainty() -> None:
    z2 = 1.95996**2
    unseen = z2 / (20 + z2)
    assert paired_difference([0.3] * 20, [0.3] * 20) == pytest.approx((0, -unseen, unseen), abs=1e-5)
    assert paired_difference([1] * 20, [0] * 20) == pytest.approx((1, 1 - 2 * unseen, 1), abs=1e-5)
    assert paired_difference([1], [0])[1] < 0


def test_pass_at_is_the_share_of_subsets_with_a_right_one() -> None:
    rows = [[1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]
    for j in range(1, 6):
        subsets = [any(chosen) for row in rows for chosen in itertools.combinations(row, j)]
        assert pass_at(rows, j) == pytest.approx(sum(subsets) / len(subsets))
    assert pass_at(rows, 1) == pytest.approx(accuracy_interval(rows).mean)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([[1, 0], [1]], "problem 1 has 1 samples and problem 0 has 2"),
        ([], "got shape"),
        ([[], []], "got shape"),
        ([[0.5, 1.5]], r"values in \[0, 1\], got 1.5 at \[0, 1\]"),
        ([[0.5, math.nan]], "got nan"),
        (torch.zeros(3), r"got shape \[3\]"),
    ],
)
def test_grids_that_are_none_are_refused(grid: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy_interval(grid)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        accuracy_interval([[1]], level=95)
    with pytest.raises(ValueError, match="a has 2 problems and b has 1"):
        paired_difference([1, 0], [1])
    with pytest.raises(ValueError, match="b must hold"):
        paired_difference([1, 0], [1, -1])
    with pytest.raises(ValueError, match="average over the samples"):
        paired_difference([[1, 0]], [[1, 1]])
    with pytest.raises(ValueError, match="1 <= j <= 2"):
        pass_at([[1, 0]], 3)
    with pytest.raises(ValueError, match="threshold"):
        pass_at([[0.5, 0]], 1)
