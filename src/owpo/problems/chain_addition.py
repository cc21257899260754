"""Chain addition: `7+8+5+9=` is answered by its running totals, `15,20,29`, the last of which is the answer.

Every quantity of interest is known in closed form: how many carries a problem needs (its difficulty), what a
response that forgets one looks like, and at which token it was forgotten.

Terms have exactly `digits` digits, the first of them not zero, so there are (9 * 10^(digits-1))^terms
prompts of a length. The split of a prompt is a function of its text alone: two sets of different splits
share no prompt, whatever their settings and seeds. (Two orders of the same terms are two prompts, and may
lie in different splits.)
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from itertools import product
from typing import Literal, get_args

from owpo.core.registry import did_you_mean
from owpo.problems.problem import Problem

Split = Literal["train", "selection", "report"]

# Tenths of the hash space: 0-7 train, 8 selection, 9 report.
_SPLIT_OF_TENTH: tuple[Split, ...] = ("train",) * 8 + ("selection", "report")
# Up to here the prompts of a length are listed, and their number is exact; above, they are drawn at random.
_LISTED = 100_000
_PROMPT = re.compile(r"[0-9]+(?:\+[0-9]+)+=")


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to: SHA-256 of its UTF-8 text, modulo 10."""
    return _SPLIT_OF_TENTH[int.from_bytes(hashlib.sha256(prompt.encode()).digest()) % 10]


def generate(
    count: int, *, terms: int | tuple[int, int], digits: int = 1, split: Split, seed: int
) -> list[Problem]:
    """`count` distinct problems of `split`, in random order; the same arguments give the same list.

    Args:
        terms: numbers to add in a prompt. A pair (min, max), both included, shares `count` equally among the
            lengths; a length with too few prompts leaves the rest to the longer ones.
        digits: digits of every term.

    Returns:
        problems whose difficulty is the number of carries on the way; the id holds the split and the terms.

    Raises:
        ValueError: a setting is out of range, or the split has fewer than `count` problems (with how many).
            Of a length with more than 100 000 prompts at most half of the split's expected number is given.
    """
    shortest, longest = check_setting(terms, digits)
    if split not in get_args(Split):
        raise ValueError(
            f"unknown split {split!r}.{did_you_mean(str(split), _SPLIT_OF_TENTH)} "
            f"Known: {', '.join(get_args(Split))}"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    rng = random.Random(f"chain_addition {split} {terms} {digits} {seed}")
    every = {length: _every_prompt(length, digits, split) for length in range(shortest, longest + 1)}
    limits = {length: _limit(length, digits, split, every[length]) for length in every}
    if count > sum(limits.values()):
        raise ValueError(
            f"{count} problems were asked for, but of chain addition with {terms} terms of {digits} digit(s) "
            f"{sum(limits.values())} can be had in the split {split!r}; ask for fewer, or for more terms "
            "or digits"
        )
    prompts: list[str] = []
    for length, known in every.items():
        share = -(-(count - len(prompts)) // (longest + 1 - length))
        quota = min(share, limits[length])
        prompts += (
            rng.sample(known, quota) if known is not None else _drawn(quota, length, digits, split, rng)
        )
    rng.shuffle(prompts)
    return [problem_of(prompt) for prompt in prompts]


def draw(rng: random.Random, *, terms: int | tuple[int, int], digits: int = 1, split: Split) -> Problem:
    """One problem of `split`; repeated draws may give the same. Settings as in `generate`."""
    shortest, longest = check_setting(terms, digits)
    length = rng.randint(shortest, longest)
    return problem_of(
        next(prompt for prompt in _random_prompts(length, digits, rng) if split_of(prompt) == split)
    )


def problem_of(prompt: str) -> Problem:
    """The problem that a prompt poses.

    Raises:
        ValueError: the prompt is not of the form `7+8+5=`.
    """
    totals, carries = _running_totals(terms_of(prompt), 0.0, random.Random(0))
    return Problem(
        id=f"chain_addition/{split_of(prompt)}/{prompt[:-1]}",
        prompt=prompt,
        answer=str(totals[-1]),
        difficulty=carries,
    )


def demonstration(problem: Problem, forget_carry: float, rng: random.Random) -> str:
    """A response in which every carry is forgotten with probability `forget_carry`, independently.

    Terms are added from the left, columns from the right. Where a column's sum reaches 10, `rng.random()`
    is drawn once; below `forget_carry` the column keeps its last digit and the carry out of it is dropped:
    7+8 gives 5 and 27+8 gives 25. The next term is added to the wrong total. A dropped carry is never made
    up for, as totals can only lose by it, so the response is right if and only if none was forgotten: with
    probability (1 - forget_carry)^difficulty.
    """
    totals, _ = _running_totals(terms_of(problem.prompt), forget_carry, rng)
    return ",".join(map(str, totals))


def terms_of(prompt: str) -> list[int]:
    """The numbers that a prompt adds.

    Raises:
        ValueError: the prompt is not of the form `7+8+5=`.
    """
    if not _PROMPT.fullmatch(prompt):
        raise ValueError(f"{prompt[:60]!r} is no chain addition; a prompt looks like '7+8+5='")
    return [int(term) for term in prompt[:-1].split("+")]


def check_setting(terms: int | tuple[int, int], digits: int) -> tuple[int, int]:
    """The smallest and largest number of terms.

    Raises:
        ValueError: fewer than two terms, an empty range, or no digit.
    """
    shortest, longest = (terms, terms) if isinstance(terms, int) else terms
    if shortest < 2:
        raise ValueError(f"terms must be at least 2, got {shortest}; a chain needs something to add")
    if longest < shortest:
        raise ValueError(f"terms must be (min, max) with min <= max, got {terms}; swap the two")
    if digits < 1:
        raise ValueError(f"digits must be at least 1, got {digits}")
    return shortest, longest


def _running_totals(terms: list[int], forget_carry: float, rng: random.Random) -> tuple[list[int], int]:
    """The totals after the 2nd, 3rd, ... term, and the number of column sums that reached 10."""
    total, totals, carries = terms[0], [], 0
    for term in terms[1:]:
        result, place, carry = 0, 1, 0
        while total or term or carry:
            column = total % 10 + term % 10 + carry
            carry = 0
            if column >= 10:
                carries += 1
                carry = int(rng.random() >= forget_carry)
            result += column % 10 * place
            total, term, place = total // 10, term // 10, place * 10
        total = result
        totals.append(total)
    return totals, carries


def _random_prompts(length: int, digits: int, rng: random.Random) -> Iterator[str]:
    low, high = 10 ** (digits - 1), 10**digits - 1
    while True:
        yield "+".join(str(rng.randint(low, high)) for _ in range(length)) + "="


def _num_prompts(length: int, digits: int) -> int:
    return (9 * 10 ** (digits - 1)) ** length


def _every_prompt(length: int, digits: int, split: Split) -> list[str] | None:
    """All prompts of one length in a split; None where they are too many to list."""
    if _num_prompts(length, digits) > _LISTED:
        return None
    choices = range(10 ** (digits - 1), 10**digits)
    prompts = ("+".join(map(str, terms)) + "=" for terms in product(choices, repeat=length))
    return [prompt for prompt in prompts if split_of(prompt) == split]


def _limit(length: int, digits: int, split: Split, known: list[str] | None) -> int:
    """How many prompts of one length may be asked for."""
    if known is not None:
        return len(known)
    # Half of what there is, or finding a new one by chance would take ever longer.
    return _num_prompts(length, digits) * _SPLIT_OF_TENTH.count(split) // 20


def _drawn(quota: int, length: int, digits: int, split: Split, rng: random.Random) -> list[str]:
    """`quota` different prompts of one length."""
    found: dict[str, None] = {}  # a set in order of finding
    for prompt in _random_prompts(length, digits, rng):
        if len(found) == quota:
            break
        if split_of(prompt) == split:
            found[prompt] = None
    return list(found)
