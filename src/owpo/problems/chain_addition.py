"""Chain addition: `7+8+5+9=` is answered by its running totals, `15,20,29`, the last of which is the answer.

The mistake is a forgotten carry. Every quantity of interest is known in closed form: how many carries a problem
needs (its difficulty), what a response that forgets one looks like, and at which token it was forgotten.

Terms have exactly `digits` digits, the first of them not zero, so there are (9 * 10^(digits-1))^terms
prompts of a length. (Two orders of the same terms are two prompts, and may lie in different splits.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from owpo.problems.chain import Chain

_PROMPT = re.compile(r"[0-9]+(?:\+[0-9]+)+=")


@dataclass(frozen=True, kw_only=True)
class ChainAddition(Chain):
    name: ClassVar[str] = "chain_addition"
    characters: ClassVar[str] = "0123456789+=,"

    def num_prompts(self, size: int) -> int:
        return (9 * self.smallest_term) ** size

    def every_prompt(self, size: int) -> Iterator[str]:
        choices = range(self.smallest_term, self.largest_term + 1)
        return ("+".join(map(str, terms)) + "=" for terms in product(choices, repeat=size))

    def random_prompt(self, size: int, rng: random.Random) -> str:
        low, high = self.smallest_term, self.largest_term
        return "+".join(str(rng.randint(low, high)) for _ in range(size)) + "="

    def work_out(self, prompt: str, mistake: float, rng: random.Random) -> tuple[list[str], int]:
        """Terms are added from the left, columns from the right. Where a column's sum reaches 10 there is an
        occasion: the column keeps its last digit and the carry out of it is dropped, so that 7+8 gives 5 and
        27+8 gives 25. The next term is added to the wrong total. As totals can only lose by it, a dropped carry
        is never made up for.
        """
        first, *others = terms_of(prompt)
        total, totals, carries = first, [], 0
        for term in others:
            result, place, carry = 0, 1, 0
            while total or term or carry:
                column = total % 10 + term % 10 + carry
                carry = 0
                if column >= 10:
                    carries += 1
                    carry = int(rng.random() >= mistake)
                result += column % 10 * place
                total, term, place = total // 10, term // 10, place * 10
            total = result
            totals.append(str(total))
        return totals, carries

    def describe(self) -> tuple[str, str]:
        return f"chain addition with {self.terms} terms of {self.digits} digit(s)", "terms or digits"


def terms_of(prompt: str) -> list[int]:
    """The numbers that a prompt adds.

    Raises:
        ValueError: the prompt is not of the form `7+8+5=`.
    """
    if not _PROMPT.fullmatch(prompt):
        raise ValueError(f"{prompt[:60]!r} is no chain addition; a prompt looks like '7+8+5='")
    return [int(term) for term in prompt[:-1].split("+")]
