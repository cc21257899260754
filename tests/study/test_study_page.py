"""docs/study.md and the studies of the repository are what the code reads and writes."""

import re
from pathlib import Path

import pytest

from owpo.study.file import find_study, read_study
from owpo.study.grid import runs_of
from owpo.study.results import Result

ROOT = Path(__file__).parents[2]
SHARED = {"recipe.toml", "tasks.toml"}
STUDIES = sorted(
    file.relative_to(ROOT / "studies").with_suffix("").as_posix()
    for file in ROOT.glob("studies/**/*.toml")
    if file.name not in SHARED
)
PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_the_repository_is_whole(name, full, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read_study(find_study(name), full=full)
    assert study.name == name
    assert len(runs_of(study, tmp_path)) == study.num_runs


@pytest.mark.parametrize(("full", "num_runs", "steps"), [(False, 8, 40), (True, 20, 120)])
def test_the_example_of_the_page(full, num_runs, steps, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "studies").mkdir()
    recipe = (ROOT / "recipes" / "demo.toml").read_text(encoding="utf-8")
    (tmp_path / "recipes" / "demo.toml").write_text(recipe, encoding="utf-8")
    file = tmp_path / "studies" / "example.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)[1], encoding="utf-8")
    runs = runs_of(read_study(file, full=full), tmp_path)
    assert len(runs) == num_runs
    assert {run.config.ratchet.steps for run in runs} == {steps}
    assert {(run.point.task, run.config.problems.report.terms) for run in runs} == {
        ("eight", 8),
        ("twelve", 12),
    }


def test_the_page_names_every_field_of_a_result():
    section = PAGE.split("A line of `results.jsonl`")[1].split("\n## ")[0]
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert told == set(Result.model_fields)
