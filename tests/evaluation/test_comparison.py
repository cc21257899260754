import pytest
import torch

from owpo.evaluation.comparison import Change, compare, on_shared_ids
from owpo.evaluation.intervals import accuracy_interval, paired_difference


def test_a_comparison_by_hand() -> None:
    a = [[0, 0], [1, 1], [1, 1], [0, 1], [0, 0]]
    b = [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]]
    told = compare(a, b, ["p", "q", "r", "s", "t"])
    # Differences 0.75, 0, -0.75, 0, 0.25.
    assert told.difference == pytest.approx(0.05)
    assert (told.better, told.equal, told.worse) == (2, 2, 1)
    assert told.gained == [Change("p", 0, 0.75)]
    assert told.kept == [Change("q", 1, 1), Change("s", 0.5, 0.5)]
    assert told.lost == [Change("r", 1, 0.25)]
    assert told.never == [Change("t", 0, 0.25)]
    # Of the 8 choices of signs, only those with 0.75 and -0.75 opposed (4) sum to +-0.25; the rest are further off.
    assert told.p_value == 1
    a_N, b_N = [0, 1, 1, 0.5, 0], [0.75, 1, 0.25, 0.5, 0.25]
    assert (told.difference, told.low, told.high) == pytest.approx(paired_difference(b_N, a_N))
    assert (told.a, told.b) == (accuracy_interval(a), accuracy_interval(b))


def test_the_largest_change_stands_first_and_ties_keep_their_order() -> None:
    a = [[0, 0, 0, 0]] * 4
    b = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert [change.id for change in compare(a, b, ["w", "x", "y", "z"]).gained] == ["x", "z", "w", "y"]


def test_solved_is_a_threshold_that_is_reached_by_equality() -> None:
    a, b = [[1, 0, 0, 0]], [[1, 1, 1, 0]]
    assert [c.id for c in compare(a, b, ["p"]).gained] == ["p"]
    assert [c.id for c in compare(a, b, ["p"], solved=0.25).kept] == ["p"]
    assert [c.id for c in compare(a, b, ["p"], solved=0.75).gained] == ["p"]
    assert [c.id for c in compare(a, b, ["p"], solved=0.8).never] == ["p"]


def simulated_p_values(gain: float, num_problems: int, num_samples: int, repeats: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    ids = [str(n) for n in range(num_problems)]
    p_values = []
    for _ in range(repeats):
        chance_N = torch.rand(num_problems, generator=generator, dtype=torch.float64) * (1 - gain)
        a_NK, b_NK = (
            torch.bernoulli(chance.unsqueeze(1).expand(-1, num_samples), generator=generator)
            for chance in (chance_N, chance_N + gain)
        )
        p_values.append(compare(a_NK, b_NK, ids).p_value)
    return torch.tensor(p_values)


def test_p_values_under_the_null_are_uniform() -> None:
    repeats = 2000
    p_values = simulated_p_values(gain=0.0, num_problems=12, num_samples=200, repeats=repeats)
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        share, noise = (p_values <= level).double().mean().item(), (level * (1 - level) / repeats) ** 0.5
        # Equal sums are counted as far as the one seen, so p lies a little above a uniform variable, never below.
        assert level - 4 * noise - 0.01 < share < level + 4 * noise


def test_drawn_p_values_under_the_null_keep_their_level() -> None:
    p_values = simulated_p_values(gain=0.0, num_problems=30, num_samples=32, repeats=250)
    assert (p_values <= 0.05).double().mean().item() < 0.05 + 4 * (0.05 * 0.95 / 250) ** 0.5
    assert 0.4 < p_values.mean().item() < 0.6


def test_a_real_gain_is_found() -> None:
    # 15 points at 30 x 8: the standard error of the difference is about 4 points.
    p_values = simulated_p_values(gain=0.15, num_problems=30, num_samples=8, repeats=60)
    assert (p_values < 0.05).double().mean().item() > 0.85


def test_shared_ids_are_brought_into_one_order() -> None:
    a, a_ids = [[1, 1], [0, 0], [0, 1]], ["x", "y", "z"]
    b, b_ids = [[1, 0, 0], [0, 0, 0], [1, 1, 1]], ["z", "w", "y"]
    a_SK, b_SK, ids = on_shared_ids(a, a_ids, b, b_ids)
    assert ids == ["y", "z"]
    assert a_SK.tolist() == [[0, 0], [0, 1]]
    assert b_SK.tolist() == [[1, 1, 1], [1, 0, 0]]
    told = compare(a_SK, b_SK, ids)
    assert ([c.id for c in told.gained], [c.id for c in told.lost]) == (["y"], ["z"])


def test_bad_input_is_refused() -> None:
    a, b = [[1, 0], [0, 0], [1, 1]], [[1, 0], [0, 0]]
    with pytest.raises(
        ValueError, match=r"a has 3 problems and b has 2, of which 1 are shared.*on_shared_ids"
    ):
        compare(a, b, ["x", "y", "z"], ["y", "w"])
    with pytest.raises(ValueError, match="another order"):
        compare(b, b, ["x", "y"], ["y", "x"])
    with pytest.raises(ValueError, match="a has 3 problems and b has 2"):
        compare(a, b, ["x", "y", "z"])
    with pytest.raises(ValueError, match="3 problems and 2 ids"):
        compare(a, a, ["x", "y"])
    with pytest.raises(ValueError, match="id 'x' stands for more than one"):
        compare(b, b, ["x", "x"])
    with pytest.raises(ValueError, match="solved must lie"):
        compare(b, b, ["x", "y"], solved=0)
    with pytest.raises(ValueError, match="no id in common"):
        on_shared_ids(b, ["x", "y"], b, ["v", "w"])
