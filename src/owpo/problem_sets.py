"""The three sets of problems of a run: read, checked, kept apart, put into their template, and recognised again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from owpo.config import (
    ChainAdditionSource,
    ChainMixedSource,
    DatasetSource,
    InsertionSortSource,
    JSONLSource,
    ProblemsConfig,
    Source,
)
from owpo.errors import InputError, input_errors
from owpo.policy.model import Policy
from owpo.problems.chain_addition import ChainAddition
from owpo.problems.chain_mixed import ChainMixed
from owpo.problems.insertion_sort import InsertionSort
from owpo.problems.overlap import find_overlap
from owpo.problems.problem import Problem, digest
from owpo.problems.sources import Loaded, load_jsonl, load_table
from owpo.problems.task import Split, Task
from owpo.problems.templates import template
from owpo.verify.answers import unreadable_answers
from owpo.verify.verifier import Verifier


@dataclass(frozen=True)
class ProblemSets:
    """What is trained on, what choices are made by, and what is reported.

    notes  what the owner of a run should know before it starts: what was left out, what the sets share
    """

    train: list[Problem]
    selection: list[Problem]
    report: list[Problem]
    notes: tuple[str, ...] = ()

    def named(self) -> dict[Split, list[Problem]]:
        return {"train": self.train, "selection": self.selection, "report": self.report}

    def longest_text(self) -> int:
        """Characters of the longest training problem."""
        return max(len(problem.prompt) for problem in self.train)

    def digests(self) -> dict[str, str]:
        return {name: digest(problems) for name, problems in self.named().items()}

    def prompted(self, config: ProblemsConfig, policy: Policy, max_new_tokens: int) -> ProblemSets:
        """The same as the policy is given them: every question in its template, none too long.

        Raises:
            InputError: as `as_prompts` does.
        """
        sets, notes = {}, list(self.notes)
        for name, problems in self.named().items():
            sets[name], told = as_prompts(
                f"problems.{name}",
                problems,
                config.template,
                policy,
                max_new_tokens,
                config.max_prompt_tokens,
            )
            notes += told
        return ProblemSets(sets["train"], sets["selection"], sets["report"], tuple(notes))


def load_problem_sets(config: ProblemsConfig, verifier: Verifier, verifier_kind: str) -> ProblemSets:
    """
    Raises:
        InputError: a file is missing or malformed, too many answers cannot be read by the verifier, or training
            problems are also in another set and the recipe does not say what then; names the set.
    """
    sources: dict[Split, Source] = {
        "train": config.train, "selection": config.selection, "report": config.report,
    }  # fmt: skip
    sets: dict[Split, list[Problem]] = {}
    notes: list[str] = []
    for name, source in sources.items():
        with input_errors(f"problems.{name}"):
            loaded = load_source(source, name)
            sets[name], bad = drop_unreadable(
                loaded.problems, verifier, verifier_kind, config.max_bad_answers
            )
        notes += [f"problems.{name}: {note}" for note in (*loaded.counts.notes(), *bad)]
    sets["train"], told = _keep_apart(sets, config.overlap)
    return ProblemSets(**sets, notes=(*notes, *told))


def load_source(source: Source, split: Split) -> Loaded:
    """The problems of a source, and what became of its rows.

    Args:
        split: of a generator, which of its three kinds of problems.

    Raises:
        ValueError: naming the file and the fix.
    """
    if isinstance(source, JSONLSource):
        return load_jsonl(source.path)
    if isinstance(source, DatasetSource):
        return load_table(
            source.path,
            preset=source.preset,
            name=source.name,
            split=source.split,
            columns=source.columns,
            limit=source.limit,
            seed=source.seed,
        )
    return Loaded.complete(_task_of(source).generate(source.count, split=split, seed=source.seed))


def _task_of(source: ChainAdditionSource | ChainMixedSource | InsertionSortSource) -> Task:
    """The task that a source's problems are made by."""

    def sizes(fewest: int | None, most: int) -> int | tuple[int, int]:
        return most if fewest is None else (fewest, most)

    if isinstance(source, InsertionSortSource):
        return InsertionSort(items=sizes(source.fewest_items, source.items))
    chain = ChainAddition if isinstance(source, ChainAdditionSource) else ChainMixed
    return chain(terms=sizes(source.fewest_terms, source.terms), digits=source.digits)


def drop_unreadable(
    problems: list[Problem], verifier: Verifier, verifier_kind: str, most: float
) -> tuple[list[Problem], list[str]]:
    """The problems whose answer the verifier can read, and a note on the others.

    Raises:
        ValueError: there are none, or the others are more than the share `most`.
    """
    bad = unreadable_answers([problem.answer for problem in problems], verifier, verifier_kind)
    if not bad:
        return problems, []
    examples = "; ".join(
        f"{problems[i].id!r} has the answer {problems[i].answer[:60]!r}: {why}"
        for i, why in list(bad.items())[:5]
    )
    told = f"{len(bad)} of {len(problems)} problems have an answer that the verifier {verifier_kind!r} cannot read"
    if len(bad) > most * len(problems) or len(bad) == len(problems):
        raise ValueError(
            f"{told} ({examples}). Mend or remove them, or choose another verifier; max_bad_answers = {most} is the "
            "largest share that may be left out"
        )
    return [p for i, p in enumerate(problems) if i not in bad], [f"{told}; left out ({examples})"]


def _keep_apart(sets: dict[Split, list[Problem]], policy: str) -> tuple[list[Problem], list[str]]:
    """The training problems, less what is to be dropped, and what they share with the other sets."""
    train, notes = sets["train"], []
    for name in ("selection", "report"):
        overlap = find_overlap(sets["train"], sets[name])
        if not overlap.pairs:
            continue
        told = f"problems.train and problems.{name}: {overlap.describe()}"
        shared = set(overlap.ids("train", "same text"))
        if shared and policy == "refuse":
            raise InputError(
                f"{told} Take the same texts out of training by problems.overlap = 'drop', or let them stay by 'report'"
            )
        if shared and policy == "drop":
            train = [problem for problem in train if problem.id not in shared]
            told += f" {len(shared)} with the same text were left out of training."
        notes.append(told)
    if not train:
        raise InputError("problems.train: every problem is also in selection or report; name another file")
    return train, notes


def as_prompts(
    name: str,
    problems: Sequence[Problem],
    template_name: str,
    policy: Policy,
    max_new_tokens: int | None,
    max_prompt_tokens: int | None,
) -> tuple[list[Problem], list[str]]:
    """The problems of set `name` as the policy is given them, and a note on those that are too long.

    Args:
        max_new_tokens: what every prompt must leave of the context; None: one token.
        max_prompt_tokens: problems with a longer prompt are left out; None: none is.

    Raises:
        InputError: the template needs a chat template and the model has none, a prompt leaves too little of the
            context, or the tokenizer has no token for something in it.
    """
    with input_errors(name):
        frame = template(template_name)
        prompted = [
            replace(problem, prompt=frame.render(problem.prompt, policy.tokenizer), is_chat=frame.is_chat)
            for problem in problems
        ]
    kept = []
    room = policy.context_length - (max_new_tokens or 1)
    for problem in prompted:
        length = prompt_length(name, problem, policy)
        if max_prompt_tokens is not None and length > max_prompt_tokens:
            continue
        if length > room:
            raise InputError(
                f"problem {problem.id!r} of {name} has {length} tokens, but the model's context of "
                f"{policy.context_length} leaves {room} beside the response (max_new_tokens); lower max_new_tokens, or "
                "leave such problems out by max_prompt_tokens"
            )
        kept.append(problem)
    if not kept:
        raise InputError(
            f"{name}: every prompt has more than max_prompt_tokens = {max_prompt_tokens} tokens; raise it"
        )
    num_long = len(prompted) - len(kept)
    if not num_long:
        return kept, []
    return kept, [
        f"{name}: {num_long} of {len(prompted)} prompts have more than max_prompt_tokens = {max_prompt_tokens} tokens, "
        "and were left out"
    ]


def longest_prompt(sets: ProblemSets, policy: Policy) -> int:
    """Tokens of the longest prompt of all sets, which are already in their template."""
    return max(
        prompt_length(f"problems.{name}", problem, policy)
        for name, problems in sets.named().items()
        for problem in problems
    )


def prompt_length(name: str, problem: Problem, policy: Policy) -> int:
    """Tokens of a prompt.

    Raises:
        InputError: the tokenizer has no token for something in it.
    """
    with input_errors(f"problem {problem.id!r} of {name}"):
        return len(policy.encode(problem.prompt, special_tokens=not problem.is_chat))
