"""Several places in one table, the metrics of training, and pages that show stored tables."""

import pytest
from study_files import ARMS, result, study_data, write_study

from owpo.errors import InputError
from owpo.study.file import read_study
from owpo.study.grid import runs_of
from owpo.study.metrics import drift_tables, metric_tables
from owpo.study.overview import overviews
from owpo.study.results import ResultsFile, Score, Transfer
from owpo.study.stored import filled

AXES = {"tasks": {"easy": {}, "hard": {}}, "metrics": ["locked"]}
# Of 100 samples: on easy owpo is 10 above dapo with both seeds, on hard 20 and 22 below.
RIGHT = {
    ("easy", "dapo"): (50, 60),
    ("easy", "owpo"): (60, 70),
    ("hard", "dapo"): (40, 42),
    ("hard", "owpo"): (20, 20),
}


def results_of(asked=lambda *_: "") -> list:
    return [
        result(
            arm,
            seed,
            [right // 10 + (number < right % 10) for number in range(10)],
            task=task,
            asked=asked(task, arm, seed),
            metrics={"locked": [(2, 0.1 + seed), (4, 0.3 + seed)]} if arm == "owpo" else {},
        )
        for (task, arm), rights in RIGHT.items()
        for seed, right in enumerate(rights)
    ]


@pytest.fixture
def study(tmp_path, recipe_data):
    return read_study(write_study(tmp_path, study_data(recipe_data, **AXES)))


def test_tasks_across_and_their_mean(study):
    (table,) = overviews(results_of(), study)
    lines = table.splitlines()
    assert lines[0] == "**The last stage's best checkpoint, chosen on the selection set**"
    assert lines[2] == "| arm | easy | hard | mean |"
    # t of one degree of freedom is 12.706: half the interval of 50 and 60 is 63.5, cut off at 0
    assert lines[4].startswith("| dapo | 55.0 ± ")
    # Differences: 10, 10; -20, -22 (half 12.7); their mean -5, -6 (half 6.4)
    assert "| 20.0 (**-21.0** ± 12.7) | 42.5 (-5.5 ± 6.4) |" in lines[5]
    assert lines[5].startswith("| owpo | 65.0 (")
    assert "means over 2 seeds ± half a 95% t interval; in brackets the paired difference from dapo" in table
    assert "missing" not in table
    (table,) = overviews(results_of()[:-1], study)
    assert table.endswith("1 runs are missing.\n")
    assert overviews([], study) == []


def test_contrasts(tmp_path, recipe_data):
    data = study_data(recipe_data, **AXES, contrasts=[["dapo", "owpo"]])
    _, table = overviews(results_of(), read_study(write_study(tmp_path, data)))
    assert table.startswith("**The last stage's best checkpoint, chosen on the selection set: differences**")
    assert "| dapo − owpo | -10.0 ± 65.8 | **+21.0** ± 12.7 | +5.5 ± 6.4 |" in table


def test_transfer_sets_have_tables_of_the_tasks_that_have_them(tmp_path, recipe_data):
    longer = {"transfer": {"longer": recipe_data["problems"]["report"]}}
    tasks = {
        "easy": longer,
        "hard": longer,
        "odd": {"transfer": {"other": recipe_data["problems"]["report"]}},
    }
    study = read_study(write_study(tmp_path, study_data(recipe_data, tasks=tasks)))

    def on(correct: int) -> Transfer:
        return Transfer(base=None, best=Score(version="best", samples=10, correct=[correct]), problems="set")

    results = [
        result(arm, seed, [9], task=task, transfer={name: on(2 * (arm == "owpo") + number + 1)})
        for number, (task, name) in enumerate({"easy": "longer", "hard": "longer", "odd": "other"}.items())
        for arm in ARMS
        for seed in (0, 1)
    ]
    _, longer_table, other = (table.splitlines() for table in overviews(results, study))
    assert longer_table[0] == "**The last stage's best checkpoint, on longer**"
    assert longer_table[2] == "| arm | easy | hard | mean |"
    assert [cell.split(" ")[0] for cell in longer_table[5].split("| ")[2:]] == ["30.0", "40.0", "35.0"]
    assert other[2] == "| arm | odd |"
    assert "50.0 (+20.0" in other[5]


def test_contrasts_of_a_single_place(tmp_path, recipe_data):
    """There is nothing to lay side by side but the arms, and without contrasts their table is enough."""
    study = read_study(write_study(tmp_path, study_data(recipe_data, contrasts=[["dapo", "owpo"]])))
    results = [result(arm, seed, [5 + (arm == "owpo") + seed]) for arm in ARMS for seed in (0, 1)]
    arms, differences = overviews(results, study)
    assert arms.splitlines()[2] == "| arm | right |"
    assert "| dapo − owpo | -10.0 ± " in differences
    assert overviews(results, read_study(write_study(tmp_path, study_data(recipe_data)))) == []


def test_settings_across_where_there_is_one_task(tmp_path, recipe_data):
    axes = {"settings": {"calm": {}, "wild": {}}}
    study = read_study(write_study(tmp_path, study_data(recipe_data, **axes)))
    results = [
        result(arm, seed, [5], setting=name) for name in axes["settings"] for arm in ARMS for seed in (0, 1)
    ]
    (table,) = overviews(results, study)
    assert table.splitlines()[2] == "| arm | calm | wild |"
    assert "| owpo | 50.0 (+0.0 ± " in table


def test_metrics_are_averaged_over_steps_then_seeds(study):
    easy, hard = metric_tables(results_of(), study)
    # 0.2 and 1.2: mean 0.7, half 12.706 * 0.7071 / sqrt(2) = 6.35
    assert "| owpo | 0.7 ± 6.4 |" in easy
    assert "| dapo |  |" in easy
    assert hard.startswith("**hard: while it was trained**")
    assert metric_tables([], study) == []


def test_how_far_references_have_gone(study):
    def moved(seed: int, *kl_firsts: float):
        drift = [{"accepted": seed == 0, "kl": 0.5, "kl_first": kl} for kl in kl_firsts]
        return result("owpo", seed, [5], task="hard", drift=drift)

    (table,) = drift_tables([moved(0, 1.0, 2.0), moved(1, 3.0)], study)
    # 1 and 3: mean 2, half 12.706 * 1.4142 / sqrt(2) = 12.7
    assert "| owpo | 2 ± 13 (0.5 ± 0; 1 of 2) | 2 (0.5; 1 of 1) |" in table
    assert table.startswith("**hard: how far from the first reference**")
    assert drift_tables(results_of(), study) == []


def test_a_page_shows_stored_tables(tmp_path, recipe_data):
    study = read_study(write_study(tmp_path, study_data(recipe_data, **AXES)))
    folder = tmp_path / "results" / "which"
    folder.mkdir(parents=True)
    asked = {run.point.key: run.asked for run in runs_of(study, folder)}
    ResultsFile(folder).write(study, results_of(lambda task, arm, seed: asked[f"{task}-{arm}-seed{seed}"]))
    block = "<!-- study which {} -->\nold\n<!-- end -->\n"
    page = f"Text.\n\n{block.format('overview')}\nMore.\n\n{block.format('tables hard best')}"
    shown = filled(page, tmp_path)
    assert shown.startswith(
        "Text.\n\n<!-- study which overview -->\n*`owpo study which`, seeds 0, 1, commit 0123456789ab, 2026-01-02*\n"
    )
    assert "| arm | easy | hard | mean |" in shown
    assert "**hard: the last stage's best" in shown
    assert "**easy: the last stage's best" not in shown
    assert "\nold\n" not in shown
    assert filled(shown, tmp_path) == shown
    for wrong in ("tables no-such", "nothing"):
        with pytest.raises(InputError, match="no such table"):
            filled(block.format(wrong), tmp_path)
    with pytest.raises(InputError, match="no results in"):
        (folder / "results.jsonl").unlink()
        filled(page, tmp_path)
