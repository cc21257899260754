"""Tasks whose problems are made on the spot: a prompt, the right way to write out its solution, and a mistake.

A task answers `prompt` by a scratchpad, entries with commas between them, the last of which is the answer. It
knows one systematic mistake, and at which entries there is an occasion for it. A mistake is never made up for by
what follows, so a scratchpad in which each occasion is missed with probability q, independently, is right with
probability (1 - q)^difficulty, where the difficulty of a problem is its number of occasions.

The split of a prompt is a function of its text alone: two sets of different splits share no prompt, whatever
their settings and seeds.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args

from owpo.core.registry import did_you_mean
from owpo.problems.problem import Problem

Split = Literal["train", "selection", "report"]

# Tenths of the hash space: 0-7 train, 8 selection, 9 report.
_SPLIT_OF_TENTH: tuple[Split, ...] = ("train",) * 8 + ("selection", "report")
# Up to here the prompts of a size are listed, and their number is exact; above, they are drawn at random.
_LISTED = 100_000


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to: SHA-256 of its UTF-8 text, modulo 10."""
    return _SPLIT_OF_TENTH[int.from_bytes(hashlib.sha256(prompt.encode()).digest()) % 10]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A kind of problem with its settings; a subclass says what a prompt is and how it is worked out.

    name        as in a recipe; problem ids begin with it
    characters  all that prompts and scratchpads are written with
    """

    name: ClassVar[str]
    characters: ClassVar[str]

    @property
    @abstractmethod
    def sizes(self) -> range:
        """From the shortest prompts to the longest; a size is what a task counts, such as terms."""

    @property
    @abstractmethod
    def max_characters(self) -> int:
        """At least so many are the characters of the longest prompt and scratchpad together, and one more."""

    @abstractmethod
    def num_prompts(self, size: int) -> int:
        """How many prompts of a size there are."""

    @abstractmethod
    def every_prompt(self, size: int) -> Iterator[str]:
        """All prompts of a size, in a fixed order."""

    @abstractmethod
    def random_prompt(self, size: int, rng: random.Random) -> str:
        """Any prompt of a size, each as likely as the others."""

    @abstractmethod
    def work_out(self, prompt: str, mistake: float, rng: random.Random) -> tuple[list[str], int]:
        """The entries of a scratchpad, and the occasions for a mistake that were met on the way.

        At each occasion `rng.random()` is drawn once; below `mistake` the mistake is made.

        Raises:
            ValueError: the prompt is none of this task.
        """

    @abstractmethod
    def describe(self) -> tuple[str, str]:
        """The task with its settings in words, and the settings of which more gives more prompts."""

    def problem_of(self, prompt: str) -> Problem:
        """The problem that a prompt poses; its difficulty is the number of occasions for a mistake.

        Raises:
            ValueError: the prompt is none of this task.
        """
        entries, occasions = self.work_out(prompt, 0.0, random.Random(0))
        return Problem(
            id=f"{self.name}/{split_of(prompt)}/{prompt[:-1]}",
            prompt=prompt,
            answer=entries[-1],
            difficulty=occasions,
        )

    def demonstration(self, prompt: str, mistake: float, rng: random.Random) -> str:
        """A scratchpad in which every occasion for a mistake is missed with probability `mistake`.

        Raises:
            ValueError: the prompt is none of this task.
        """
        return ",".join(self.work_out(prompt, mistake, rng)[0])

    def generate(self, count: int, *, split: Split, seed: int) -> list[Problem]:
        """`count` distinct problems of `split`, in random order; the same arguments give the same list.

        `count` is shared equally among the sizes; a size with too few prompts leaves the rest to the larger
        ones.

        Raises:
            ValueError: no such split, or it has fewer than `count` problems (with how many). Of a size with
                more than 100 000 prompts at most half of the split's expected number is given.
        """
        if split not in get_args(Split):
            raise ValueError(
                f"unknown split {split!r}.{did_you_mean(str(split), _SPLIT_OF_TENTH)} "
                f"Known: {', '.join(get_args(Split))}"
            )
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        settings = " ".join(str(getattr(self, field.name)) for field in fields(self))
        rng = random.Random(f"{self.name} {split} {settings} {seed}")
        every = {size: self._listed(size, split) for size in self.sizes}
        limits = {size: self._limit(size, split, known) for size, known in every.items()}
        if count > sum(limits.values()):
            described, more = self.describe()
            raise ValueError(
                f"{count} problems were asked for, but of {described} {sum(limits.values())} can be had in the "
                f"split {split!r}; ask for fewer, or for more {more}"
            )
        prompts: list[str] = []
        for size, known in every.items():
            share = -(-(count - len(prompts)) // (self.sizes[-1] + 1 - size))
            quota = min(share, limits[size])
            prompts += rng.sample(known, quota) if known is not None else self._drawn(quota, size, split, rng)
        rng.shuffle(prompts)
        return [self.problem_of(prompt) for prompt in prompts]

    def draw(self, rng: random.Random, *, split: Split) -> Problem:
        """One problem of `split`; repeated draws may give the same."""
        size = rng.randint(self.sizes[0], self.sizes[-1])
        while True:
            prompt = self.random_prompt(size, rng)
            if split_of(prompt) == split:
                return self.problem_of(prompt)

    def _listed(self, size: int, split: Split) -> list[str] | None:
        """All prompts of one size in a split; None where they are too many to list."""
        if self.num_prompts(size) > _LISTED:
            return None
        return [prompt for prompt in self.every_prompt(size) if split_of(prompt) == split]

    def _limit(self, size: int, split: Split, known: list[str] | None) -> int:
        """How many prompts of one size may be asked for."""
        if known is not None:
            return len(known)
        # Half of what there is, or finding a new one by chance would take ever longer.
        return self.num_prompts(size) * _SPLIT_OF_TENTH.count(split) // 20

    def _drawn(self, quota: int, size: int, split: Split, rng: random.Random) -> list[str]:
        """`quota` different prompts of one size."""
        found: dict[str, None] = {}  # a set in order of finding
        while True:
            # One prompt is drawn beyond the last that is kept: what a seed gives has always depended on it.
            prompt = self.random_prompt(size, rng)
            if len(found) == quota:
                return list(found)
            if split_of(prompt) == split:
                found[prompt] = None


def range_of(setting: str, value: int | tuple[int, int], why: str) -> range:
    """The sizes that a setting names: a number, or a pair (min, max) with both included.

    Raises:
        ValueError: fewer than two, or an empty range.
    """
    smallest, largest = (value, value) if isinstance(value, int) else value
    if smallest < 2:
        raise ValueError(f"{setting} must be at least 2, got {smallest}; {why}")
    if largest < smallest:
        raise ValueError(f"{setting} must be (min, max) with min <= max, got {value}; swap the two")
    return range(smallest, largest + 1)
