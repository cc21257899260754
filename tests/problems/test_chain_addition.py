import hashlib
import json
import random
import re
from collections import Counter

import pytest

from owpo.problems.chain_addition import ChainAddition
from owpo.problems.problem import digest
from owpo.problems.task import split_of
from owpo.verify.exact import exact_grader
from owpo.verify.verdict import Verdict

TASK = ChainAddition()


def carries_by_hand(terms: list[int]) -> int:
    """Carries of a chain, from the digit sums: each carry lowers the digit sum by 9."""

    def digit_sum(number: int) -> int:
        return sum(map(int, str(number)))

    total, carries = terms[0], 0
    for term in terms[1:]:
        carries += (digit_sum(total) + digit_sum(term) - digit_sum(total + term)) // 9
        total += term
    return carries


@pytest.mark.parametrize(
    ("prompt", "forgetting", "answer", "carries"),
    [
        ("7+8=", "5", "15", 1),
        ("1+2+3=", "3,6", "6", 0),
        ("7+8+5+9=", "5,0,9", "29", 2),
        ("27+8=", "25", "35", 1),
        ("27+85=", "2", "112", 2),
        ("95+7+99=", "92,81", "201", 4),
    ],
)
def test_answers_carries_and_what_forgetting_gives_worked_by_hand(
    prompt: str, forgetting: str, answer: str, carries: int
) -> None:
    problem = TASK.problem_of(prompt)
    assert (problem.answer, problem.difficulty) == (answer, carries)
    assert TASK.demonstration(prompt, 1.0, random.Random(0)) == forgetting


def test_answer_and_difficulty_agree_with_an_independent_count() -> None:
    for problem in ChainAddition(terms=(2, 9), digits=3).generate(400, split="train", seed=1):
        terms = [int(term) for term in re.findall("[0-9]+", problem.prompt)]
        assert problem.answer == str(sum(terms))
        assert problem.difficulty == carries_by_hand(terms)


def test_a_faultless_demonstration_is_the_running_totals() -> None:
    assert TASK.demonstration("7+8+5+9=", 0.0, random.Random(0)) == "15,20,29"
    assert TASK.demonstration("27+8+95=", 0.0, random.Random(0)) == "35,130"


class FixedDraws(random.Random):
    """`random()` gives the listed values in turn, and fails when there are too few."""

    def __init__(self, draws: list[float]) -> None:
        super().__init__()
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


def test_one_draw_a_carry_and_the_run_goes_on_from_the_wrong_total() -> None:
    # 7+8: carry kept, 15. 15+5: carry forgotten, 10 (not 20). 10+9: none. 19+1: carry kept, 20.
    draws = FixedDraws([0.7, 0.69, 0.7])
    assert TASK.demonstration("7+8+5+9+1=", 0.7, draws) == "15,10,19,20"
    assert draws.draws == []


def test_forgetting_the_inner_carry_alone() -> None:
    # 95+7: 5+7 = 12, forgotten, so the tens stay 9 and no second carry occurs.
    assert TASK.demonstration("95+7=", 0.5, FixedDraws([0.1])) == "92"
    # The first kept: 9+0+1 = 10, whose carry is forgotten: 02.
    assert TASK.demonstration("95+7=", 0.5, FixedDraws([0.9, 0.1])) == "2"


def test_right_demonstrations_are_as_frequent_as_their_carries_say() -> None:
    problem = TASK.problem_of("7+8+5+9=")  # 2 carries
    rng, verify = random.Random(0), exact_grader("last_number")
    right = sum(
        verify(TASK.demonstration(problem.prompt, 0.7, rng), problem.answer).verdict is Verdict.correct
        for _ in range(20_000)
    )
    assert abs(right / 20_000 - 0.3**2) < 4 * (0.09 * 0.91 / 20_000) ** 0.5


def test_no_setting_or_seed_makes_splits_overlap() -> None:
    prompts: dict[str, set[str]] = {"train": set(), "selection": set(), "report": set()}
    for split, found in prompts.items():
        for seed, (terms, digits) in enumerate([(2, 1), ((2, 4), 1), (3, 1), (2, 2), (8, 1), ((2, 3), 2)]):
            count = 6 if (terms, digits) == (2, 1) else 60
            problems = ChainAddition(terms=terms, digits=digits).generate(count, split=split, seed=seed)
            assert len({p.prompt for p in problems}) == len({p.id for p in problems}) == count
            assert all(p.id.startswith(f"chain_addition/{split}/") for p in problems)
            found.update(p.prompt for p in problems)
    assert not prompts["train"] & prompts["selection"]
    assert not prompts["train"] & prompts["report"]
    assert not prompts["selection"] & prompts["report"]


def test_the_split_of_a_prompt_never_changes() -> None:
    # Fixed for good: another hash would move problems of old runs from one split into another.
    doubles = [split_of(f"{a}+{a}=") for a in range(1, 10)]
    assert doubles == ["report", *["train"] * 5, "selection", "train", "selection"]
    shares = Counter(split_of(f"{a}+{b}=") for a in range(100) for b in range(100))
    assert abs(shares["selection"] / 10_000 - 0.1) < 0.012
    assert abs(shares["report"] / 10_000 - 0.1) < 0.012


def test_the_same_arguments_give_the_same_list_and_another_seed_another() -> None:
    task = ChainAddition(terms=(3, 6))
    assert task.generate(50, split="train", seed=3) == task.generate(50, split="train", seed=3)
    assert task.generate(50, split="train", seed=3) != task.generate(50, split="train", seed=4)


def test_what_a_seed_gives_never_changes() -> None:
    # Digests from the first version of the generator: old runs name their problems by these.
    assert digest(ChainAddition(terms=8).generate(200, split="train", seed=0))[:16] == "09d2c8193005237a"
    graded = ChainAddition(terms=(2, 5), digits=2)
    assert digest(graded.generate(100, split="report", seed=3))[:16] == "e57f22e76bcbb953"
    listed = ChainAddition(terms=(2, 3))
    assert digest(listed.generate(20, split="selection", seed=1))[:16] == "68cf4a52a2c841d5"
    rng, task = random.Random(5), ChainAddition(terms=(2, 8), digits=2)
    shown = [task.demonstration(task.draw(rng, split="train").prompt, 0.4, rng) for _ in range(200)]
    assert hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16] == "e0e86a0febde429c"


def test_a_range_of_terms_is_shared_equally_and_short_lengths_leave_the_rest() -> None:
    lengths = Counter(
        p.prompt.count("+") + 1 for p in ChainAddition(terms=(4, 6)).generate(300, split="train", seed=0)
    )
    assert lengths == {4: 100, 5: 100, 6: 100}
    in_train = sum(split_of(f"{a}+{b}=") == "train" for a in range(1, 10) for b in range(1, 10))
    lengths = Counter(
        p.prompt.count("+") + 1 for p in ChainAddition(terms=(2, 3)).generate(500, split="train", seed=0)
    )
    assert lengths == {2: in_train, 3: 500 - in_train}


def test_all_there_is_can_be_had_and_one_more_is_refused_with_the_number() -> None:
    in_report = sum(split_of(f"{a}+{b}=") == "report" for a in range(1, 10) for b in range(1, 10))
    assert len(ChainAddition(terms=2).generate(in_report, split="report", seed=0)) == in_report
    with pytest.raises(ValueError, match=rf"{in_report + 1} problems .* {in_report} can be had .*'report'"):
        ChainAddition(terms=2).generate(in_report + 1, split="report", seed=0)


def test_more_than_half_of_a_large_space_is_refused() -> None:
    # 9^8 prompts, a tenth of them in "report", half of those on offer.
    with pytest.raises(ValueError, match=f"{9**8 // 20} can be had"):
        ChainAddition(terms=8).generate(9**8 // 20 + 1, split="report", seed=0)


def test_draws_stay_in_their_split_and_range() -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = ChainAddition(terms=(2, 4)).draw(rng, split="selection")
        assert split_of(problem.prompt) == "selection"
        assert 2 <= problem.prompt.count("+") + 1 <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": 1}, "terms must be at least 2, got 1"),
        ({"terms": (5, 3)}, "min <= max"),
        ({"digits": 0}, "digits must be at least 1"),
        ({"split": "trian"}, "Did you mean 'train'"),
        ({"count": 0}, "count must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict, message: str) -> None:
    setting = {"count": 5, "terms": 3, "digits": 1, "split": "train", "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        ChainAddition(terms=setting.pop("terms"), digits=setting.pop("digits")).generate(**setting)


@pytest.mark.parametrize("prompt", ["7+8", "7=", "7+-8=", "7 + 8=", "", "٧+٨=", "7+8=15", "7+8=\n"])
def test_other_prompts_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="no chain addition"):
        TASK.problem_of(prompt)
