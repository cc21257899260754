import pytest

from owpo.problems.problem import Problem
from owpo.problems.sources import split_check


def problems(*prompts: str) -> list[Problem]:
    return [Problem(id=f"id-{index}", prompt=prompt, answer="1") for index, prompt in enumerate(prompts)]


def test_sets_that_are_apart_pass() -> None:
    assert split_check(problems("a", "b"), problems("c"), problems("d", "A")) is None
    assert split_check(problems("a", "a"), [], []) is None  # repeats inside one set are no leak


def test_a_shared_prompt_is_found_in_every_pair_and_whitespace_does_not_hide_it() -> None:
    with pytest.raises(
        ValueError, match=r"train and selection share 2 prompt\(s\), for example 'x y' \('id-1'"
    ):
        split_check(problems("a", "x  y\n", "z"), problems("z ", "x\ty"), problems("d"))
    with pytest.raises(ValueError, match="train and report share 1"):
        split_check(problems("a"), problems("b"), problems("a"))
    with pytest.raises(ValueError, match=r"train and selection share 1 .*; selection and report share 1"):
        split_check(problems("a", "q"), problems("a", "b"), problems("b"))


def test_the_example_of_a_long_prompt_is_cut() -> None:
    long = "word " * 1000
    with pytest.raises(ValueError, match="share 1") as caught:
        split_check(problems(long), problems(long), [])
    assert len(str(caught.value)) < 300
