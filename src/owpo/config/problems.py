"""Where problems come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from owpo.config.section import PathString, Section
from owpo.core.registry import did_you_mean
from owpo.problems.presets import PRESETS, Preset
from owpo.problems.templates import template


class JSONLSource(Section):
    kind: Literal["jsonl"]
    path: PathString
    """A file of {"id", "prompt", "answer", ...} lines."""


class MadeSource(Section):
    """Problems made on the spot (docs/data.md)."""

    count: Annotated[int, Field(gt=0)]
    """How many distinct problems."""
    seed: int = 0
    """Of which problems; the three sets share none, whatever their seeds."""


class _ChainSource(MadeSource):
    terms: Annotated[int, Field(ge=2)] = 8
    """Numbers in a chain."""
    fewest_terms: Annotated[int, Field(ge=2)] | None = None
    """For problems of graded length, fewest_terms to terms; None: all have `terms`."""

    @model_validator(mode="after")
    def _fewest_is_fewer(self) -> Self:
        if self.fewest_terms is not None and self.fewest_terms > self.terms:
            raise ValueError(f"fewest_terms = {self.fewest_terms} is more than terms = {self.terms}")
        return self


class ChainAdditionSource(_ChainSource):
    kind: Literal["chain_addition"]
    digits: Annotated[int, Field(ge=1)] = 1
    """Digits of each number."""


class ChainMixedSource(_ChainSource):
    kind: Literal["chain_mixed"]
    digits: Annotated[int, Field(ge=1, le=3)] = 1
    """Digits of each number."""


class InsertionSortSource(MadeSource):
    kind: Literal["insertion_sort"]
    items: Annotated[int, Field(ge=2)] = 6
    """Digits to sort."""
    fewest_items: Annotated[int, Field(ge=2)] | None = None
    """For problems of graded length, fewest_items to items; None: all have `items`."""

    @model_validator(mode="after")
    def _fewest_is_fewer(self) -> Self:
        if self.fewest_items is not None and self.fewest_items > self.items:
            raise ValueError(f"fewest_items = {self.fewest_items} is more than items = {self.items}")
        return self


class DatasetSource(Section):
    kind: Literal["dataset"]
    preset: str | None = None
    """A published schema (docs/data.md lists them); None: columns `prompt`, `answer` and, where there is one, `id`."""
    path: PathString | None = None
    """A JSONL or Parquet file, a folder of them, a saved data set, or a hub id; None: the preset's."""
    name: PathString | None = None
    """Configuration of a hub data set; None: the preset's."""
    split: PathString | None = None
    """Split of a hub data set; None: the preset's."""
    columns: dict[str, PathString] | None = None
    """Without a preset: columns of other names, such as { prompt = "question", answer = "gold.value" }."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many problems, the first ones."""
    seed: int = 0
    """Of the order in which a preset with options puts them."""

    @model_validator(mode="after")
    def _leads_somewhere(self) -> DatasetSource:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(
                f"preset = {self.preset!r} is unknown.{did_you_mean(self.preset, PRESETS)} "
                f"Known: {', '.join(PRESETS)}"
            )
        if self.preset is not None and self.columns is not None:
            raise ValueError(f"preset {self.preset!r} knows its columns; leave out columns, or the preset")
        if self.path is None and (self.preset is None or PRESETS[self.preset].hub is None):
            raise ValueError("path is missing; name a file, a folder or a hub id, or a preset that has one")
        return self


Source = Annotated[
    JSONLSource | DatasetSource | ChainAdditionSource | ChainMixedSource | InsertionSortSource,
    Field(discriminator="kind"),
]


class ProblemsConfig(Section):
    train: Source
    """What the policy learns from."""
    selection: Source
    """What checkpoints and references are chosen by."""
    report: Source
    """What the closing table is measured on. No choice should look at it; the table says where one did."""
    template: Annotated[str, Field(min_length=1)] = "plain"
    """What a question is put into: a name (docs/data.md), or a text with {question} in it. A preset brings its own."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Problems with a longer prompt are left out, and counted; None: one that does not fit the context is refused."""
    overlap: Literal["refuse", "drop", "report"] = "refuse"
    """Training problems that are also in selection or report: refuse the run, leave them out, or only say so."""
    max_bad_answers: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest share of a set whose own answers the verifier cannot read; those problems are left out, and listed."""

    @model_validator(mode="before")
    @classmethod
    def _template_of_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and "template" not in data:
            templates = [preset.template for preset in presets_of(data)]
            return {**data, "template": templates[0]} if templates else data
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> ProblemsConfig:
        template(self.template)
        for name in ("selection", "report"):
            if getattr(self, name) == self.train:
                raise ValueError(
                    f"problems.train and problems.{name} are the same; what is trained on says nothing of other "
                    "problems: name another file or split"
                )
        return self


def presets_of(problems: Mapping[str, Any]) -> list[Preset]:
    """The presets of a run's three sources, training's first; the sources are sections or plain data."""
    found = []
    for name in ("train", "selection", "report"):
        source = problems.get(name)
        preset = source.get("preset") if isinstance(source, dict) else getattr(source, "preset", None)
        if preset in PRESETS:
            found.append(PRESETS[preset])
    return found
