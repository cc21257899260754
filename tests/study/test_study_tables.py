"""Tables against numbers worked out by hand."""

import csv
import io

import pytest
from study_files import ARMS, result, study_of

from owpo.evaluation.intervals import accuracy_interval, paired_difference
from owpo.study.figures import charts_of, curve
from owpo.study.page import texts_of
from owpo.study.results import Score
from owpo.study.tables import as_csv, markdown, tables_of

THREE = {**ARMS, "late": {"training.warmup_updates": 2}}
# dapo 50, 60, 55%; owpo 10, 15 and 5 points above; late 30, 31 and 32 points above.
CORRECT = {"dapo": (50, 60, 55), "owpo": (60, 75, 60), "late": (80, 91, 87)}


def spread(total: int) -> list[int]:
    """So many right of 10 problems with 10 samples each."""
    return [total // 10 + (number < total % 10) for number in range(10)]


@pytest.fixture
def study(tmp_path, recipe_data):
    return study_of(tmp_path, recipe_data, arms=THREE, seeds=[0, 1, 2])


@pytest.fixture
def results():
    return [
        result(arm, seed, spread(total))
        for arm, totals in CORRECT.items()
        for seed, total in enumerate(totals)
    ]


def row(table, arm):
    return next(row for row in table.rows if row.arm == arm)


def test_means_and_differences_over_three_seeds(study, results):
    (table,) = tables_of(results, study)
    dapo, owpo, late = (row(table, arm) for arm in ("dapo", "owpo", "late"))
    # s = 0.05, t = 4.3027 with two degrees of freedom: 4.3027 * 0.05 / sqrt(3) = 0.12421
    assert (dapo.accuracy.mean, dapo.accuracy.low, dapo.accuracy.high) == pytest.approx(
        (0.55, 0.42579, 0.67421), abs=1e-5
    )
    assert dapo.difference is None
    assert (owpo.difference.mean, owpo.difference.low, owpo.difference.high) == pytest.approx(
        (0.1, -0.02421, 0.22421), abs=1e-5
    )
    # s = 0.01: 0.02484
    assert (late.difference.mean, late.difference.low, late.difference.high) == pytest.approx(
        (0.31, 0.28516, 0.33484), abs=1e-5
    )
    assert [(r.arm, r.is_best) for r in table.rows] == [
        ("before training", False), ("dapo", False), ("owpo", False), ("late", True),
    ]  # fmt: skip
    assert (table.planned, table.missing, late.accuracy.num, late.accuracy.over) == (9, 0, 3, "seeds")


def test_the_table_as_it_is_read(study, results):
    (table,) = tables_of(results, study)
    lines = markdown(table).splitlines()
    assert lines[0] == "**The last stage's best checkpoint, chosen on the selection set**"
    assert "| dapo | 55.0 | 42.6 to 67.4 |  |  | 3 |" in lines
    assert "| owpo | 65.0 | 43.5 to 86.5 | +10.0 | -2.4 to +22.4 | 3 |" in lines
    assert "| **late** | **86.0** | 72.2 to 99.8 | +31.0 | +28.5 to +33.5 | 3 |" in lines
    assert "Report set: 10 problems, 10 samples each. 3 seeds: t intervals over seeds." in lines[-1]
    assert "missing" not in lines[-1]


def test_the_best_is_not_bold_where_chance_could_have_made_it(study, results):
    (table,) = tables_of([r for r in results if r.arm != "late"], study)
    assert not any(r.is_best for r in table.rows)
    assert "3 of 9 runs are missing." in markdown(table)
    assert "| late |  |  |  |  | 0 |" in markdown(table)


def test_differences_are_over_the_seeds_that_both_have(study, results):
    (table,) = tables_of([r for r in results if (r.arm, r.seed) != ("dapo", 1)], study)
    owpo = row(table, "owpo")
    assert (owpo.accuracy.num, owpo.difference.num) == (3, 2)
    assert owpo.difference.mean == pytest.approx((0.10 + 0.05) / 2)


def test_one_seed_is_measured_over_its_problems(tmp_path, recipe_data):
    study = study_of(tmp_path, recipe_data, seeds=[0])
    dapo, owpo = [5, 0, 10, 3], [6, 1, 10, 4]
    (table,) = tables_of([result("dapo", 0, dapo), result("owpo", 0, owpo)], study)
    found, expected = (
        row(table, "dapo").accuracy,
        accuracy_interval([[True] * c + [False] * (10 - c) for c in dapo]),
    )
    assert (found.mean, found.low, found.high, found.over) == (
        expected.mean,
        expected.low,
        expected.high,
        "problems",
    )
    difference = row(table, "owpo").difference
    expected = paired_difference([c / 10 for c in owpo], [c / 10 for c in dapo])
    assert (difference.mean, difference.low, difference.high) == expected
    assert "One seed: intervals are over problems" in markdown(table)
    assert "†" not in markdown(table)


def test_one_seed_of_several_is_marked(study, results):
    (table,) = tables_of([r for r in results if r.seed == 0], study)
    assert "†: of one finished seed, over problems." in markdown(table)
    assert "6 of 9 runs are missing." in markdown(table)


def test_other_problems_cannot_be_paired_one_by_one(study, results):
    pair = [results[0], results[3].model_copy(update={"problems": "other"})]
    (table,) = tables_of(pair, study)
    assert row(table, "owpo").difference is None


def test_seeds_that_agree_do_not_promise_certainty(study):
    (table,) = tables_of([result("dapo", seed, [5] * 10) for seed in range(3)], study)
    accuracy = row(table, "dapo").accuracy
    assert accuracy.low < 0.5 < accuracy.high


def test_each_measure_task_and_setting_has_a_table(tmp_path, recipe_data):
    axes = {"tasks": {"a": {}, "b": {}}, "settings": {"x": {}}, "measure": ["last", "best"]}
    study = study_of(tmp_path, recipe_data, **axes)
    last = Score(version="stage1-end", samples=10, correct=[3])
    done = [result("dapo", seed, [4], task="b", setting="x", last=last) for seed in (0, 1)]
    tables = tables_of(done, study)
    assert [(t.task, t.setting, t.measure, t.missing) for t in tables] == [
        ("a", "x", "last", 4), ("a", "x", "best", 4), ("b", "x", "last", 2), ("b", "x", "best", 2),
    ]  # fmt: skip
    assert [row(t, "dapo").accuracy.mean for t in tables[2:]] == pytest.approx([0.3, 0.4])
    assert tables[2].title == "b, x: the weights at the end of the run"


def test_csv_has_every_number(study, results):
    rows = list(csv.DictReader(io.StringIO(as_csv(tables_of(results, study)))))
    assert len(rows) == 4
    assert rows[3]["arm"] == "late"
    assert (rows[3]["difference"], rows[3]["difference_low"]) == ("0.310000", "0.285159")
    assert (rows[1]["difference"], rows[1]["seeds"], rows[1]["interval_over"]) == ("", "3", "seeds")


def test_a_curve_is_of_steps_that_all_seeds_have(results):
    short = result("dapo", 3, [5], curve=[(2, 0.4, 0.3, 0.5)])
    line = curve([*results, short], "dapo", None)
    assert line.x == [2.0]
    assert line.y == pytest.approx([(0.2 * 3 + 0.4) / 4])
    assert curve(results, "dapo", [4]).x == [4.0]


def test_the_page_says_what_was_run(study, results):
    results = [r.model_copy(update={"shared_problems": 3}) for r in results[:-1]]
    page = texts_of(results, study)["README.md"]
    for told in (
        "# Which objective",
        "Does the reference help?",
        "3 arms x seeds 0, 1, 2; 8 of 9 runs are finished",
        "commit 0123456789ab",
        "a machine, 2 cores",
        "0.20 hours",
        "| owpo | `ratchet.reference = 'base'` |",
        "    owpo study which\n",
        "(figures/curves.svg)",
        "1 of 9 runs are missing.",
        "3 of the problems are among those that checkpoints were chosen by.",
    ):
        assert told in page
    assert "at the end dapo 40.0%" in charts_of(results, study)[0].says
