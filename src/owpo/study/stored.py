"""Holding what is written to what was measured: a stored study's texts, and pages that show its tables."""

from __future__ import annotations

from pathlib import Path

from owpo.study.file import read_study
from owpo.study.page import texts_of
from owpo.study.results import stored_results
from owpo.study.tables import markdown, tables_of


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


def tables_not_in(page: str, study_file: Path, folder: Path, *, full: bool = False) -> list[str]:
    """Titles of a stored study's tables that do not stand in a page word for word. See `stale_texts` for errors."""
    study = read_study(study_file, full=full)
    tables = tables_of(stored_results(study, folder), study)
    return [table.title for table in tables if markdown(table) not in page]
