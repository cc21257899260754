"""docs/objectives.md says what the code does: names, defaults, needs, scaffolds, modes, statistics, links."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from core_batches import VARIANT_IDS, VARIANTS, prepared, random_batch

from owpo.core.advantage import ESTIMATORS
from owpo.core.kl import KL_ESTIMATORS
from owpo.core.reduce import MODES
from owpo.core.registry import entries, objective

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "objectives.md").read_text()


def section(heading):
    """The text under a heading, up to the next of its level or above."""
    level = heading.split(" ")[0]
    start = PAGE.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{len(level)}}} ", PAGE[start:], flags=re.MULTILINE)
    return PAGE[start : start + end.start()] if end else PAGE[start:]


def rows(heading):
    """The names in the first column of the table under a heading."""
    return re.findall(r"^\| `([^`]+)` \|", section(heading), flags=re.MULTILINE)


def item(name, label):
    """What the section of an objective says after `- label:`, up to the next item."""
    (text,) = re.findall(
        rf"^- {label}:(.*?)(?=^- |\Z)", section(f"### `{name}`"), flags=re.DOTALL | re.MULTILINE
    )
    return text


@pytest.mark.parametrize("name", [entry.name for entry in entries()])
def test_an_objectives_section(name):
    chosen = objective(name)
    written = dict(re.findall(r"`(\w+) = ([^`]+)`", item(name, "Defaults")))
    values = {f.name: getattr(chosen.config, f.name) for f in fields(chosen.config)}
    assert written == {
        key: f'"{value}"' if isinstance(value, str) else repr(value) for key, value in values.items()
    }

    needs = item(name, "Needs")
    for field, is_needed in {
        "`old_logp`": chosen.needs.old_logp,
        "`ref_logp`": chosen.needs.reference,
        "`weight`": chosen.needs.prepared,
        "`context`": chosen.needs.contexts,
        "zero advantage counts": chosen.needs.zero_advantage,
    }.items():
        assert (field in needs) is is_needed, field

    scaffold = item(name, "Scaffold")
    assert f"`{chosen.scaffold.advantage}`" in scaffold
    assert f"`{chosen.scaffold.reduction}`" in scaffold
    assert ("no dynamic sampling" not in scaffold) is chosen.scaffold.dynamic_sampling
    assert item(name, "Departures").strip()


def test_no_section_without_an_objective():
    assert set(re.findall(r"^### `(\w+)`$", PAGE, flags=re.MULTILINE)) == {entry.name for entry in entries()}


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("## Advantage estimators", ESTIMATORS),
        ("## Reductions", MODES),
        ("## KL estimators", KL_ESTIMATORS),
    ],
)
def test_tables_hold_exactly_what_exists(heading, names):
    assert rows(heading) == list(names)


def test_the_glossary_holds_exactly_the_statistics_that_objectives_return():
    returned = set()
    for name, hyper_parameters in VARIANTS:
        chosen, batch = prepared(name, hyper_parameters, random_batch())
        returned |= set(chosen(batch).stats)
    assert len(VARIANT_IDS) == len(set(VARIANT_IDS))
    assert set(rows("## Per-token statistics")) == returned


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
            assert target[1:] in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, (
                target
            )
        else:
            assert (DOCS / target).exists(), target
