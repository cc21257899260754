import random
from collections import Counter

import pytest

from owpo.problems.insertion_sort import InsertionSort
from owpo.problems.task import split_of
from owpo.verify.exact import exact_grader
from owpo.verify.verdict import Verdict

TASK = InsertionSort()


@pytest.mark.parametrize(
    ("prompt", "right", "appended", "insertions"),
    [
        ("12=", "12", "12", 0),
        ("3142=", "13,134,1234", "31,314,3142", 2),
        ("212=", "12,122", "21,212", 1),
        ("555=", "55,555", "55,555", 0),
        # 7 stays behind 9, so that 8, too, has a larger one before it.
        ("978=", "79,789", "97,978", 2),
    ],
)
def test_lists_and_what_appending_gives_worked_by_hand(
    prompt: str, right: str, appended: str, insertions: int
) -> None:
    problem = TASK.problem_of(prompt)
    assert (problem.answer, problem.difficulty) == (right.rpartition(",")[2], insertions)
    assert problem.id == f"insertion_sort/{split_of(prompt)}/{prompt[:-1]}"
    assert TASK.demonstration(prompt, 0.0, random.Random(0)) == right
    assert TASK.demonstration(prompt, 1.0, random.Random(0)) == appended


class FixedDraws(random.Random):
    """`random()` gives the listed values in turn, and fails when there are too few."""

    def __init__(self, draws: list[float]) -> None:
        super().__init__()
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


def test_one_draw_an_insertion_and_the_list_goes_on_as_it_is() -> None:
    # 1 is put at the end, behind 3; 4 belongs there; 2 goes before the first larger one, which is 3.
    draws = FixedDraws([0.69, 0.7])
    assert TASK.demonstration("3142=", 0.7, draws) == "31,314,2314"
    assert draws.draws == []


def test_answers_and_difficulty_agree_with_an_independent_count() -> None:
    for problem in InsertionSort(items=(2, 9)).generate(300, split="train", seed=1):
        items = problem.prompt[:-1]
        assert problem.answer == "".join(sorted(items))
        assert problem.difficulty == sum(max(items[:at]) > items[at] for at in range(1, len(items)))


def test_a_response_is_right_if_and_only_if_nothing_was_appended_that_belongs_elsewhere() -> None:
    verify, rng = exact_grader("last_number"), random.Random(0)
    for problem in TASK.generate(300, split="train", seed=0):
        right = TASK.demonstration(problem.prompt, 0.0, rng)
        shown = TASK.demonstration(problem.prompt, 0.3, rng)
        assert (verify(shown, problem.answer).verdict is Verdict.correct) == (shown == right)


def test_the_verifier_counts_every_one_of_equal_items_and_there_are_no_leading_zeros() -> None:
    verify = exact_grader("last_number")
    assert "0" not in TASK.characters
    assert verify("12,122", TASK.problem_of("212=").answer).verdict is Verdict.correct
    assert verify("12,12", TASK.problem_of("212=").answer).verdict is Verdict.wrong
    long = "9" * 39 + "1="  # beyond a float, exact all the same
    answer = TASK.problem_of(long).answer
    assert verify("1" + "9" * 39, answer).verdict is Verdict.correct
    assert verify("1" + "9" * 38 + "8", answer).verdict is Verdict.wrong


def test_splits_are_apart_and_a_seed_gives_the_same_list() -> None:
    found = {
        split: {p.prompt for p in InsertionSort(items=(3, 5)).generate(60, split=split, seed=seed)}
        for seed, split in enumerate(("train", "selection", "report"))
    }
    assert all(split_of(prompt) == split for split, prompts in found.items() for prompt in prompts)
    assert all(Counter(map(len, prompts)) == {4: 20, 5: 20, 6: 20} for prompts in found.values())
    again = TASK.generate(50, split="train", seed=3)
    assert again == TASK.generate(50, split="train", seed=3) != TASK.generate(50, split="train", seed=4)
    drawn = {TASK.draw(random.Random(seed), split="selection").prompt for seed in range(50)}
    assert len(drawn) > 40 and {split_of(prompt) for prompt in drawn} == {"selection"}


def test_settings_out_of_range_are_refused() -> None:
    for change, message in (
        ({"items": 1}, "items must be at least 2, got 1; one alone is sorted"),
        ({"items": (5, 3)}, "items must be .* min <= max"),
    ):
        with pytest.raises(ValueError, match=message):
            InsertionSort(**change)
    in_train = sum(split_of(f"{a}{b}=") == "train" for a in range(1, 10) for b in range(1, 10))
    with pytest.raises(
        ValueError, match=rf"insertion sort with 2 items {in_train} can be had .*'train'.* more items"
    ):
        InsertionSort(items=2).generate(in_train + 1, split="train", seed=0)
    with pytest.raises(ValueError, match=f"{9**6 // 20} can be had"):
        TASK.generate(9**6 // 20 + 1, split="report", seed=0)


@pytest.mark.parametrize("prompt", ["3142", "3=", "3,1=", "301=", "", "٣١=", "31=13", "31=\n", "ba="])
def test_other_prompts_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="no list to sort"):
        TASK.problem_of(prompt)
