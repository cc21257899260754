"""Insertion sort: `3142=` is answered by what is sorted so far, `13,134,1234`, an item more each time.

The mistake is an item that is put at the end where it belongs further to the left.

Items are digits from 1 to 9, and may be equal: `212=` gives `12,122`. There is no 0, for the last number of a
response is compared by value: with it `012` and `12` would be the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from owpo.problems.task import Task, range_of

_ITEMS = "123456789"
_PROMPT = re.compile(r"[1-9]{2,}=")


@dataclass(frozen=True, kw_only=True)
class InsertionSort(Task):
    """
    items   to sort in a prompt, or a pair (min, max)
    """

    name: ClassVar[str] = "insertion_sort"
    characters: ClassVar[str] = f"{_ITEMS}=,"

    items: int | tuple[int, int] = 6

    def __post_init__(self) -> None:
        range_of("items", self.items, "one alone is sorted")

    @property
    def sizes(self) -> range:
        return range_of("items", self.items, "one alone is sorted")

    @property
    def max_characters(self) -> int:
        # A prompt, and lists of 2, 3, ... items, each with a comma or an end.
        longest = self.sizes[-1]
        return longest + 1 + sum(length + 1 for length in range(2, longest + 1))

    def num_prompts(self, size: int) -> int:
        return len(_ITEMS) ** size

    def every_prompt(self, size: int) -> Iterator[str]:
        return ("".join(items) + "=" for items in product(_ITEMS, repeat=size))

    def random_prompt(self, size: int, rng: random.Random) -> str:
        return "".join(rng.choices(_ITEMS, k=size)) + "="

    def work_out(self, prompt: str, mistake: float, rng: random.Random) -> tuple[list[str], int]:
        """An item goes before the first larger one of the list so far. Where there is a larger one, there is an
        occasion: the item goes to the end. The list goes on as it is, and as inserting an item moves none past
        another, one that stands behind a larger one is never made up for.
        """
        if not _PROMPT.fullmatch(prompt):
            raise ValueError(f"{prompt[:60]!r} is no list to sort; a prompt looks like '3142=', without 0")
        so_far, lists, insertions = prompt[0], [], 0
        for item in prompt[1:-1]:
            place = next((at for at, other in enumerate(so_far) if other > item), len(so_far))
            if place < len(so_far):
                insertions += 1
                place = len(so_far) if rng.random() < mistake else place
            so_far = so_far[:place] + item + so_far[place:]
            lists.append(so_far)
        return lists, insertions

    def describe(self) -> tuple[str, str]:
        return f"insertion sort with {self.items} items", "items"
