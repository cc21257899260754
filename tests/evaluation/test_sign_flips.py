"""Sign-flip tests, against p-values counted by hand or by plain enumeration."""

import itertools
import math

import pytest
import torch

from owpo.evaluation.sign_flips import max_t_test, sign_flip_test


def test_few_differences_are_enumerated_exactly() -> None:
    # All 5 differences positive: only all plus and all minus are as far, 2 / 32. Zeros do not matter.
    difference = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.5, 0, 0], dtype=torch.float64)
    assert sign_flip_test(difference) == 2 / 32
    # 3, 1, -1: |sum| >= 3 for the sums +-5 (2 ways) and +-3 (4 ways), not for +-1 (2 ways).
    assert sign_flip_test(torch.tensor([3.0, 1.0, -1.0])) == 6 / 8
    # Equal sums are equal, though 0.1 + 0.2 is not 0.3 in floating point.
    assert sign_flip_test(torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)) == 1
    assert sign_flip_test(torch.zeros(4)) == 1


def test_many_differences_are_drawn_and_agree_with_enumeration() -> None:
    generator = torch.Generator().manual_seed(3)
    for shift in (0.0, 0.15, 0.3):
        difference = torch.rand(17, generator=generator, dtype=torch.float64) - 0.5 + shift
        seen, hits = abs(sum(difference.tolist())), 0
        for signs in itertools.product((-1, 1), repeat=17):
            hits += abs(sum(s * d for s, d in zip(signs, difference.tolist(), strict=True))) >= seen - 1e-9
        exact = hits / 2**17
        told = sign_flip_test(difference, seed=1)
        assert told == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4)
        assert told == sign_flip_test(difference, seed=1)
    assert sign_flip_test(difference, seed=1) != sign_flip_test(difference, seed=2)


def test_a_drawn_p_value_is_never_zero() -> None:
    assert sign_flip_test(torch.ones(60)) == 1 / 20_001


def enumerated_max_t(rows: list[list[float]], chosen: int) -> float:
    """The definition, in plain Python: share of common signs whose largest t is at least the chosen row's."""
    scale = [math.sqrt(sum(d * d for d in row)) or 1.0 for row in rows]
    seen = sum(rows[chosen]) / scale[chosen]
    hits = 0
    for signs in itertools.product((-1, 1), repeat=len(rows[0])):
        sums = [sum(s * d for s, d in zip(signs, row, strict=True)) for row in rows]
        hits += max(total / by for total, by in zip(sums, scale, strict=True)) >= seen - 1e-9
    return hits / 2 ** len(rows[0])


def test_one_checkpoint_is_the_one_sided_test() -> None:
    assert max_t_test(torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.5, 0, 0]]), 0) == 1 / 32
    # 3, 1, -1: sums of 3 and more are 5 (one way) and 3 (two ways), of 8.
    assert max_t_test(torch.tensor([[3.0, 1.0, -1.0]]), 0) == 3 / 8
    assert max_t_test(torch.tensor([[-3.0, -1.0, 1.0]]), 0) == 7 / 8
    assert max_t_test(torch.zeros(1, 4), 0) == 1


def test_two_checkpoints_by_hand() -> None:
    # t of the signs (++, +-, -+, --): row 0 has 1.41, 0, 0, -1.41 and row 1 has 0, 1.41, -1.41, 0.
    rows = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert max_t_test(rows, 0) == 2 / 4
    assert max_t_test(rows[:1], 0) == 1 / 4
    assert max_t_test(rows, 1) == 1  # it was not the largest: every sign has some row at 0 or above


def test_few_problems_are_enumerated_by_the_definition() -> None:
    generator = torch.Generator().manual_seed(2)
    for shift in (0.0, 0.2):
        counts = torch.randint(-4, 5, (4, 9), generator=generator)
        rows = counts.double() / 4 + shift
        rows[2] *= 5  # the scale of a row is taken out
        for chosen in range(4):
            assert max_t_test(rows, chosen) == enumerated_max_t(rows.tolist(), chosen)


def test_many_problems_are_drawn_and_agree_with_enumeration() -> None:
    generator = torch.Generator().manual_seed(4)
    rows = torch.rand((3, 17), generator=generator, dtype=torch.float64) - torch.tensor([[0.5], [0.3], [0.5]])
    bits = torch.arange(2**17).unsqueeze(1) >> torch.arange(17) & 1
    t_RC = (1 - 2 * bits.double()) @ (rows / rows.square().sum(dim=1, keepdim=True).sqrt()).T
    exact = (t_RC.amax(dim=1) >= t_RC[0, 1] - 1e-9).double().mean().item()
    told = max_t_test(rows, 1, seed=1)
    assert 0.01 < exact < 0.5
    assert told == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4)
    assert told == max_t_test(rows, 1, seed=1)
    assert told != max_t_test(rows, 1, seed=2)


def test_alike_checkpoints_cost_nothing_and_unlike_ones_do() -> None:
    generator = torch.Generator().manual_seed(6)
    row = torch.rand((1, 12), generator=generator, dtype=torch.float64) - 0.25
    others = torch.rand((5, 12), generator=generator, dtype=torch.float64) - 0.5
    alone = max_t_test(row, 0)
    assert 0 < alone < 0.1
    assert max_t_test(row.repeat(6, 1), 0) == alone
    among_others = max_t_test(torch.cat([row, others]), 0)
    assert 2 * alone < among_others <= 6 * alone  # Bonferroni's bound is for the most unlike


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_difference_that_is_no_number_is_refused(value: float) -> None:
    differences = torch.tensor([0.5] * 30 + [value])
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        sign_flip_test(differences)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        max_t_test(torch.stack([torch.ones(31), differences]), 0)
