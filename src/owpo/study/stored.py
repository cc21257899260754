"""Holding what is written to what was measured: a stored study's texts, and pages that show its tables.

Between two lines of a page,

    <!-- study NAME PART -->
    <!-- end -->

stands what `filled` puts there: one line that says what made it, and the tables of studies/NAME.toml from the
results stored in studies/results/NAME, or NAME-full. PART is `overview`, `tables`, `metrics` or `drift`; words
after it are looked for in the tables' titles. NAME+OTHER are two studies, or more, read as one (`tuned`).
`python -m owpo.study.stored PAGE`, where studies/ is, writes a page anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from owpo.errors import InputError
from owpo.study.file import FOLDER, Study, read_study
from owpo.study.metrics import drift_tables, metric_tables
from owpo.study.overview import overviews
from owpo.study.page import provenance, texts_of
from owpo.study.results import Result, stored_results
from owpo.study.tables import markdown, tables_of
from owpo.study.tuned import tuned

_BLOCK = re.compile(
    r"<!-- study (?P<name>\S+) (?P<part>\w+)(?P<words>[^>]*?) -->\n.*?<!-- end -->", re.DOTALL
)
_PARTS = {
    "overview": overviews,
    "tables": lambda results, study: [markdown(table) for table in tables_of(results, study)],
    "metrics": metric_tables,
    "drift": drift_tables,
}


def stale_texts(study_file: Path, folder: Path, *, full: bool = False) -> list[str]:
    """Names of a study's texts in `folder` that are not what its results.jsonl gives; the figures are not looked at.

    Raises:
        InputError: the results are none, damaged, or of other settings than the study asks for.
    """
    study = read_study(study_file, full=full)
    texts = texts_of(stored_results(study, folder), study)
    return [
        name
        for name, text in texts.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def filled(page: str, studies: Path) -> str:
    """The page with the tables that its blocks ask for.

    Args:
        studies: the folder of study files, with stored results in its folder `results`.

    Raises:
        InputError: a block asks for what is not there; or as `stale_texts`.
    """

    def fill(block: re.Match[str]) -> str:
        name, part, words = block["name"], block["part"], block["words"].split()
        stored = [_stored(studies, each) for each in name.split("+")]
        made_by = "; ".join(provenance(results, study) for study, results in stored)
        study, results = stored[0]
        if len(stored) > 1:
            study, results, told = tuned(stored)
            made_by = f"{made_by}. {told}"
        tables = _chosen(results, study, part, words)
        opening = block[0].partition("\n")[0]
        if not tables:
            raise InputError(
                f"{opening}: no such table; its words must be in a title of part {', '.join(_PARTS)}"
            )
        return "\n".join([opening, f"*{made_by}*", "", *tables, "<!-- end -->"])

    return _BLOCK.sub(fill, page)


def _stored(studies: Path, name: str) -> tuple[Study, list[Result]]:
    """Those of the whole study, where there are any."""
    whole = read_study(studies / f"{name}.toml", full=True)
    is_full = whole.is_full and (studies / "results" / whole.folder_name).is_dir()
    study = whole if is_full else read_study(studies / f"{name}.toml")
    return study, stored_results(study, studies / "results" / study.folder_name)


def _chosen(results: Sequence[Result], study: Study, part: str, words: Sequence[str]) -> list[str]:
    tables = _PARTS[part](results, study) if part in _PARTS else []
    return [
        table for table in tables if all(word in table.partition("\n")[0].split("**")[1] for word in words)
    ]


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(filled(page.read_text(encoding="utf-8"), FOLDER), encoding="utf-8")
