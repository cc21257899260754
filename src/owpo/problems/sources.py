"""Whether a run's sets are apart: what it trains on, chooses by and reports must not share a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from owpo.problems.problem import Problem


def split_check(train: Sequence[Problem], selection: Sequence[Problem], report: Sequence[Problem]) -> None:
    """Refuse sets of which two share a prompt, runs of whitespace counting as one space.

    A checkpoint chosen on the problems that it is reported on looks better than it is, and so does one that
    was trained on them. Texts that say the same in other words are not found.

    Raises:
        ValueError: naming the sets, how many prompts they share and one of them.
    """
    sets = {"train": train, "selection": selection, "report": report}
    prompts = {name: {" ".join(p.prompt.split()): p for p in problems} for name, problems in sets.items()}
    clashes = []
    for one, other in combinations(sets, 2):
        shared = [prompt for prompt in prompts[one] if prompt in prompts[other]]
        if shared:
            example = shared[0] if len(shared[0]) <= 80 else shared[0][:77] + "..."
            ids = f"{prompts[one][shared[0]].id!r} in {one}, {prompts[other][shared[0]].id!r} in {other}"
            clashes.append(
                f"{one} and {other} share {len(shared)} prompt(s), for example {example!r} ({ids})"
            )
    if clashes:
        raise ValueError(f"{'; '.join(clashes)}. Remove the shared problems from one of the two sets")
