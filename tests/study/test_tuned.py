"""Two studies read as one: each arm at the better of two settings by the selection set, shown on the report set."""

import pytest
from study_files import ARMS, result, study_data, write_study

from owpo.errors import InputError
from owpo.study.file import read_study
from owpo.study.grid import runs_of
from owpo.study.results import ResultsFile
from owpo.study.stored import filled
from owpo.study.tuned import tuned

SETTINGS = {"calm": {}, "wild": {}}
# By study and arm the share on the selection set, and right answers of 10 on the report set, which say otherwise.
FAST = {"dapo": (0.3, 9), "owpo": (0.6, 6)}
SLOW = {"dapo": (0.5, 5), "owpo": (0.4, 8)}


def results_of(scores, settings=("calm",), seeds=(0, 1), asked=lambda *_: "") -> list:
    return [
        result(arm, seed, [right], setting=s, selection=(share, 0, 1), asked=asked(s, arm, seed))
        for s in settings
        for arm, (share, right) in scores.items()
        for seed in seeds
    ]


@pytest.fixture
def studies(tmp_path, recipe_data):
    data = study_data(recipe_data, settings=SETTINGS, contrasts=[["owpo", "dapo"]])
    more = {**data, "arms": {**ARMS, "opd": {"objective": {"name": "opd"}, "ratchet": {"reference": "base"}}}}
    return [read_study(write_study(tmp_path, each, name)) for name, each in (("fast", data), ("slow", more))]


def test_each_arm_is_taken_where_the_selection_set_says(studies):
    fast, slow = studies
    found = tuned([(fast, results_of(FAST)), (slow, results_of({**SLOW, "opd": (0.9, 9)}, tuple(SETTINGS)))])
    right = {(r.setting, r.arm, r.seed): r.best.correct[0] for r in found.results}
    assert right == {
        ("calm", "dapo", 0): 5,
        ("calm", "dapo", 1): 5,
        ("calm", "owpo", 0): 6,
        ("calm", "owpo", 1): 6,
    }
    assert list(found.study.arms) == ["dapo", "owpo"]  # opd is in one of them
    assert list(found.study.settings) == ["calm"]  # so is wild
    assert found.study.contrasts == (("owpo", "dapo"),)
    assert found.told == "All of fast but what is better on the selection set in slow: calm dapo."


def test_only_seeds_that_all_have_count(studies):
    fast, slow = studies
    more = results_of(FAST) + results_of({"dapo": (1.0, 1), "owpo": (0.0, 1)}, seeds=(2,))
    found = tuned([(fast, more), (slow, results_of(SLOW))])
    assert found.study.seeds == (0, 1)
    assert {r.seed for r in found.results} == {0, 1}
    assert found.told.endswith("in slow: calm dapo.")
    assert tuned([(slow, results_of(SLOW)), (slow, results_of(SLOW))]).told.startswith(
        "All of slow, as nothing is"
    )
    with pytest.raises(InputError, match="fast and slow have no runs of the baseline in common"):
        tuned([(fast, results_of(FAST)), (slow, results_of({"owpo": (0.4, 8)}))])


def test_a_page_shows_them(studies, tmp_path):
    for study, scores in zip(studies, (FAST, {**SLOW, "opd": (0.9, 9)}), strict=True):
        asked = {
            (r.point.setting, r.point.arm, r.point.seed): r.asked for r in runs_of(study, tmp_path / "out")
        }
        folder = tmp_path / "results" / study.name
        folder.mkdir(parents=True)
        results = results_of(scores, tuple(SETTINGS), asked=lambda *place, asked=asked: asked[place])
        ResultsFile(folder).write(study, results)
    page = filled("<!-- study fast+slow overview -->\n<!-- end -->", tmp_path)
    assert (
        "*`owpo study fast`, seeds 0, 1, commit 0123456789ab, 2026-01-02; `owpo study slow`, seeds 0, 1, "
        in page
    )
    assert "All of fast but what is better on the selection set in slow: calm dapo, wild dapo.*" in page
    assert "| owpo | 60.0 (+10.0 ± " in page
