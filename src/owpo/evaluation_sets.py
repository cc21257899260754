"""The problem sets of an evaluation: from words on a command line to problems with their template and verifier."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from owpo.config import DatasetSource, ProblemsConfig, RunConfig, Source, VerifierConfig
from owpo.core.registry import did_you_mean
from owpo.errors import InputError, input_errors
from owpo.problem_sets import drop_unreadable, load_source
from owpo.problems.presets import PRESETS
from owpo.problems.problem import Problem
from owpo.problems.task import Split
from owpo.problems.templates import template as find_template
from owpo.verify.verifier import Verifier, open_verifier


@dataclass(frozen=True)
class EvaluationSet:
    """Problems as their source has them, what they are put into and judged by, and what was left out of them."""

    name: str
    problems: list[Problem]
    template: str
    verifier: VerifierConfig
    notes: list[str]


class Verifiers:
    """The verifiers of an evaluation, each started when first asked for; all end with the block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[str, Verifier] = {}

    def __enter__(self) -> Verifiers:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def get(self, config: VerifierConfig) -> Verifier:
        """
        Raises:
            InputError: the verifier cannot be started.
        """
        key = config.model_dump_json()
        if key not in self._open:
            with input_errors("verifier"):
                verifier = open_verifier(config.spec(), **config.limits())
            self._open[key] = self._stack.enter_context(closing(verifier))
        return self._open[key]


@dataclass(frozen=True)
class _Choice:
    """A set before it is read: `split` matters to a generator alone."""

    name: str
    source: Source
    split: Split
    template: str
    verifier: VerifierConfig
    max_bad_answers: float


def choose_sets(
    words: Sequence[str],
    recipe: RunConfig | None,
    verifiers: Verifiers,
    *,
    template: str | None,
    verifier: str | None,
) -> list[EvaluationSet]:
    """One set a word (`owpo.evaluate` says what a word may be).

    Args:
        template, verifier: for all sets; None: a preset has its own, any other set the recipe's; without a recipe, the
            defaults of recipes, `plain` and `exact`.

    Raises:
        InputError: there is no such set, it is empty or unreadable, or two have the same name.
    """
    if not words:
        raise InputError("no problem set; name one by --data, such as --data aime24 or --data problems.jsonl")
    choices = [_choice(word, recipe) for word in words]
    for index, choice in enumerate(choices):
        if choice.name in {other.name for other in choices[:index]}:
            raise InputError(
                f"two sets are called {choice.name!r}; rename a file, or measure them one at a time"
            )
        if template is not None:
            choice = replace(choice, template=template)
        if verifier is not None:
            choice = replace(choice, verifier=parse_verifier(verifier))
        choices[index] = choice
    return [_read(choice, verifiers.get(choice.verifier)) for choice in choices]


def _choice(word: str, recipe: RunConfig | None) -> _Choice:
    form: str = recipe.problems.template if recipe is not None else _default(ProblemsConfig, "template")
    judge: VerifierConfig = recipe.verifier if recipe is not None else _default(RunConfig, "verifier")
    most: float = (
        recipe.problems.max_bad_answers if recipe is not None else _default(ProblemsConfig, "max_bad_answers")
    )
    if recipe is not None and word in get_args(Split):
        return _Choice(word, getattr(recipe.problems, word), cast(Split, word), form, judge, most)
    name, source = parse_source(word)
    preset = PRESETS.get(getattr(source, "preset", None) or "")
    if preset is not None:
        form, judge = preset.template, parse_verifier(preset.verifier)
    return _Choice(name, source, "report", form, judge, most)


def _default(section: type[BaseModel], field: str) -> Any:
    return section.model_fields[field].default


def _read(choice: _Choice, verifier: Verifier) -> EvaluationSet:
    with input_errors(choice.name):
        find_template(choice.template)
        loaded = load_source(choice.source, choice.split)
        problems, bad = drop_unreadable(
            loaded.problems, verifier, choice.verifier.kind, choice.max_bad_answers
        )
    return EvaluationSet(
        choice.name, problems, choice.template, choice.verifier, [*loaded.counts.notes(), *bad]
    )


def parse_source(word: str) -> tuple[str, Source]:
    """A name and a source: a preset, `preset=path`, a file, a folder, a hub id, or a source as a recipe writes it.

    Raises:
        InputError: it is none of these.
    """
    if word.startswith("{"):
        source = _from_table(word, TypeAdapter(Source), "a problem set")
        path, split = getattr(source, "path", None), getattr(source, "split", None)
        name = getattr(source, "preset", None) or (_name_of(path) if path else source.kind)
        return f"{name}-{split}" if split else name, source
    if word in PRESETS:
        return word, _dataset(word, preset=word)
    preset, equals, path = word.partition("=")
    if equals and preset in PRESETS:
        return preset, _dataset(word, preset=preset, path=path)
    if Path(word).exists() or word.endswith((".jsonl", ".parquet")) or word.count("/") == 1:
        return _name_of(word), _dataset(word, path=word)
    raise InputError(
        f"no problem set {word!r}: neither a preset nor a file, a folder or a hub id.{did_you_mean(word, PRESETS)} "
        f"Presets: {', '.join(PRESETS)}"
    )


def _name_of(path: str) -> str:
    """The last part of a path or hub id, without the ending of a file."""
    return Path(path).resolve().name.removesuffix(".jsonl").removesuffix(".parquet")


def _dataset(word: str, preset: str | None = None, path: str | None = None) -> DatasetSource:
    with input_errors(word):
        return DatasetSource(kind="dataset", preset=preset, path=path)


def parse_verifier(word: str) -> VerifierConfig:
    """A verifier from its kind (`math`) or from a table as a recipe writes it (`{kind = "numeric", tolerance = 1e-3}`).

    Raises:
        InputError: it is neither.
    """
    table = word if word.startswith("{") else f'{{ kind = "{word}" }}'
    return _from_table(table, TypeAdapter(VerifierConfig), "a verifier")


def _from_table(text: str, adapter: TypeAdapter[Any], what: str) -> Any:
    try:
        return adapter.validate_python(tomllib.loads(f"it = {text}")["it"])
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{text} is no TOML table: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InputError(f"{text} is not {what}: {told}") from error
