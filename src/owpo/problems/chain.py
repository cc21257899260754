"""What tasks that chain numbers have in common: terms of a number of digits, and running totals."""

from __future__ import annotations

from dataclasses import dataclass

from owpo.problems.task import Task, range_of


@dataclass(frozen=True, kw_only=True)
class Chain(Task):
    """
    terms   numbers in a prompt, or a pair (min, max)
    digits  of every term, the first of them not zero
    """

    terms: int | tuple[int, int] = 8
    digits: int = 1

    def __post_init__(self) -> None:
        assert self.sizes
        if self.digits < 1:
            raise ValueError(f"digits must be at least 1, got {self.digits}")

    @property
    def sizes(self) -> range:
        return range_of("terms", self.terms, "a chain needs something to add")

    @property
    def max_characters(self) -> int:
        # A prompt, and as many totals, each with a comma and up to len(str(terms)) digits more than a term.
        longest = self.sizes[-1]
        return longest * (2 * self.digits + 2 + len(str(longest)))

    @property
    def smallest_term(self) -> int:
        return 10 ** (self.digits - 1)

    @property
    def largest_term(self) -> int:
        return 10**self.digits - 1
