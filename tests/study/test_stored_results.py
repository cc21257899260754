"""What the repository says was found is what its stored results give."""

import importlib.util
import re
from pathlib import Path

import pytest

from owpo.study.file import find_study, read_study, study_files
from owpo.study.grid import runs_of
from owpo.study.results import FILE
from owpo.study.stored import filled, stale_texts

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "studies"
STORED = sorted(
    file.parent.relative_to(STUDIES / "results").as_posix() for file in STUDIES.glob(f"results/**/{FILE}")
)
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def expectation():
    spec = importlib.util.spec_from_file_location("expectation", STUDIES / "expectation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", STORED)
def test_stored_texts_are_of_their_results(name):
    is_full = name.endswith("-full")
    file = find_study(name.removesuffix("-full"))
    assert stale_texts(file, STUDIES / "results" / name, full=is_full) == []
    assert read_study(file, full=is_full).folder_name == name


def test_every_study_of_the_repository_is_accepted(tmp_path):
    """Those that have no stored results, as the larger rung, too."""
    files = study_files()
    assert STUDIES / "gpu" in {ROOT / file.parent for file in files}
    for file in files:
        reduced, whole = (len(runs_of(read_study(file, full=full), tmp_path)) for full in (False, True))
        assert 0 < reduced <= whole


def test_the_page_shows_what_is_stored():
    assert filled(PAGE, STUDIES) == PAGE
    assert expectation().filled(PAGE) == PAGE
    assert PAGE.count("<!-- end -->") == PAGE.count("<!-- study ") + PAGE.count("<!-- expectation -->")


def test_a_changed_number_is_seen():
    line = next(line for line in PAGE.splitlines() if line.startswith("| owpo | "))
    changed = PAGE.replace(line, line.replace("| owpo | ", "| owpo | 1"))
    assert filled(changed, STUDIES) == PAGE


def test_every_stored_study_is_on_the_page():
    shown = {name for block in re.findall(r"<!-- study (\S+) ", PAGE) for name in block.split("+")}
    assert shown == {name.removesuffix("-full") for name in STORED}
