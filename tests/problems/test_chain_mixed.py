import random
from itertools import product

import pytest

from owpo.problems.chain_mixed import ChainMixed
from owpo.problems.task import split_of
from owpo.verify.exact import exact_grader
from owpo.verify.verdict import Verdict

TASK = ChainMixed()


@pytest.mark.parametrize(
    ("prompt", "right", "overlooked", "minuses"),
    [
        ("7-8+5=", None, None, None),
        ("7+8=", "15", "15", 0),
        ("7+8-9+4=", "15,6,10", "15,24,28", 1),
        ("9-9+3=", "0,3", "18,21", 1),
        ("17-8+25-9=", "9,34,25", "25,50,59", 2),
    ],
)
def test_totals_and_what_overlooking_gives_worked_by_hand(
    prompt: str, right: str | None, overlooked: str, minuses: int
) -> None:
    if right is None:
        with pytest.raises(ValueError, match="total below zero"):
            TASK.problem_of(prompt)
        return
    problem = TASK.problem_of(prompt)
    assert (problem.answer, problem.difficulty) == (right.rpartition(",")[2], minuses)
    assert problem.id == f"chain_mixed/{split_of(prompt)}/{prompt[:-1]}"
    assert TASK.demonstration(prompt, 0.0, random.Random(0)) == right
    assert TASK.demonstration(prompt, 1.0, random.Random(0)) == overlooked


def test_answers_agree_with_pythons_arithmetic_and_no_total_is_below_zero() -> None:
    for problem in ChainMixed(terms=(2, 9), digits=2).generate(300, split="train", seed=1):
        chain = problem.prompt[:-1]
        assert problem.answer == str(eval(chain))
        assert problem.difficulty == chain.count("-")
        ends = [at for at, character in enumerate(chain) if character in "+-"]
        assert all(eval(chain[:end]) >= 0 for end in ends)


def test_the_number_of_prompts_is_that_of_a_list_of_all() -> None:
    for task, size in ((ChainMixed(), 2), (ChainMixed(), 4), (ChainMixed(digits=2), 2)):
        every = list(task.every_prompt(size))
        assert len(every) == len(set(every)) == task.num_prompts(size)
    # By hand, of one digit and two terms: 81 sums, and 45 differences that are not below zero.
    assert ChainMixed().num_prompts(2) == 81 + 45
    signed = [*range(1, 10), *range(-9, 0)]
    chains = [(a, b, c) for a, b, c in product(range(1, 10), signed, signed) if a + b >= 0 and a + b + c >= 0]
    assert ChainMixed().num_prompts(3) == len(chains)


def test_random_prompts_are_of_all_kinds_equally() -> None:
    rng = random.Random(0)
    drawn = [ChainMixed().random_prompt(2, rng) for _ in range(12_600)]
    assert set(drawn) == set(ChainMixed().every_prompt(2))
    assert max(drawn.count(prompt) for prompt in set(drawn)) < 100 + 5 * 10  # 100 expected of each


def test_a_response_is_right_if_and_only_if_no_minus_was_overlooked() -> None:
    verify, rng = exact_grader("last_number"), random.Random(0)
    for problem in TASK.generate(300, split="train", seed=0):
        right = TASK.demonstration(problem.prompt, 0.0, rng)
        shown = TASK.demonstration(problem.prompt, 0.3, rng)
        assert (verify(shown, problem.answer).verdict is Verdict.correct) == (shown == right)


def test_splits_are_apart_and_a_seed_gives_the_same_list() -> None:
    found = {
        split: {p.prompt for p in ChainMixed(terms=(2, 4)).generate(60, split=split, seed=seed)}
        for seed, split in enumerate(("train", "selection", "report"))
    }
    assert all(split_of(prompt) == split for split, prompts in found.items() for prompt in prompts)
    assert all(len(prompts) == 60 for prompts in found.values())
    again = TASK.generate(50, split="train", seed=3)
    assert again == TASK.generate(50, split="train", seed=3) != TASK.generate(50, split="train", seed=4)


def test_settings_out_of_range_are_refused() -> None:
    for change, message in (
        ({"terms": 1}, "terms must be at least 2, got 1"),
        ({"terms": (5, 3)}, "min <= max"),
        ({"digits": 0}, "digits must be at least 1"),
        ({"digits": 4}, "digits must be at most 3, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            ChainMixed(**change)
    in_report = sum(split_of(prompt) == "report" for prompt in ChainMixed().every_prompt(2))
    with pytest.raises(
        ValueError, match=rf"chains of .* with 2 terms .* {in_report} can be had .*'report'.* terms or digits"
    ):
        ChainMixed(terms=2).generate(in_report + 1, split="report", seed=0)


@pytest.mark.parametrize("prompt", ["7+8", "7=", "7+-8=", "-7+8=", "7 - 8=", "", "٧-٨=", "7-8=15", "8-7=\n"])
def test_other_prompts_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="no chain of additions and subtractions"):
        TASK.problem_of(prompt)
