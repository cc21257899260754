"""Chains of additions and subtractions: `7+8-9+4=` is answered by its running totals, `15,6,10`.

The mistake is an overlooked minus: the term is added. (Forgotten carries and borrows would make up for each
other, 10 too little and 10 too much, so that an answer could be right by two mistakes.)

Terms have exactly `digits` digits, the first of them not zero, and no total is below zero: what a model has to
write are digits alone, and the last number of a response is never taken for a difference.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product
from typing import ClassVar

from owpo.problems.chain import Chain

_PROMPT = re.compile(r"[0-9]+(?:[+-][0-9]+)+=")
_TERM = re.compile(r"[+-]?[0-9]+")
_MOST_DIGITS = 3  # prompts are counted by their totals, which are few up to here


@dataclass(frozen=True, kw_only=True)
class ChainMixed(Chain):
    name: ClassVar[str] = "chain_mixed"
    characters: ClassVar[str] = "0123456789+-=,"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.digits > _MOST_DIGITS:
            raise ValueError(f"digits must be at most {_MOST_DIGITS}, got {self.digits}")

    def num_prompts(self, size: int) -> int:
        low, high = self.smallest_term, self.largest_term
        # counts[t]: the chains so far whose total is t; a chain goes on to all totals a term above or below.
        counts = [int(low <= total <= high) for total in range(size * high + 1)]
        for _ in range(size - 1):
            below = [0, *accumulate(counts)]
            counts = [
                _between(below, total - high, total - low) + _between(below, total + low, total + high)
                for total in range(len(counts))
            ]
        return sum(counts)

    def every_prompt(self, size: int) -> Iterator[str]:
        low, high = self.smallest_term, self.largest_term
        signed = [*range(low, high + 1), *range(-low, -high - 1, -1)]
        for first in range(low, high + 1):
            for others in product(signed, repeat=size - 1):
                if min(accumulate((first, *others))) >= 0:
                    yield _written((first, *others))

    def random_prompt(self, size: int, rng: random.Random) -> str:
        low, high = self.smallest_term, self.largest_term
        while True:
            total = rng.randint(low, high)
            terms = [total]
            while len(terms) < size and total >= 0:
                terms.append(rng.choice((1, -1)) * rng.randint(low, high))
                total += terms[-1]
            if total >= 0:
                return _written(terms)

    def work_out(self, prompt: str, mistake: float, rng: random.Random) -> tuple[list[str], int]:
        """Every minus is an occasion: overlooked, its term is added, and the next one is added to or subtracted
        from the wrong total. As totals can only gain by it, an overlooked minus is never made up for.
        """
        total, *others = terms_of(prompt)
        totals, minuses = [], 0
        for term in others:
            if term < 0:
                minuses += 1
                term = -term if rng.random() < mistake else term
            total += term
            totals.append(str(total))
        return totals, minuses

    def describe(self) -> tuple[str, str]:
        return (
            f"chains of additions and subtractions with {self.terms} terms of {self.digits} digit(s)",
            "terms or digits",
        )


def terms_of(prompt: str) -> list[int]:
    """The numbers that a prompt adds, those to be subtracted below zero. A term of 0 is never subtracted.

    Raises:
        ValueError: the prompt is not of the form `7+8-9=`, or a total on the way is below zero.
    """
    if not _PROMPT.fullmatch(prompt):
        raise ValueError(
            f"{prompt[:60]!r} is no chain of additions and subtractions; a prompt looks like '7+8-9='"
        )
    terms = [int(term) for term in _TERM.findall(prompt)]
    if min(accumulate(terms)) < 0:
        raise ValueError(f"{prompt[:60]!r} has a total below zero; let no term be subtracted from less")
    return terms


def _written(terms: list[int] | tuple[int, ...]) -> str:
    """[7, 8, -9] as `7+8-9=`."""
    return "".join(f"{term:+}" for term in terms).removeprefix("+") + "="


def _between(below: list[int], first: int, last: int) -> int:
    """The sum of the counts from `first` to `last`, as far as there are counts; below[t] is that of those before t."""
    first, end = max(0, first), min(len(below) - 1, last + 1)
    return below[end] - below[first] if first < end else 0
