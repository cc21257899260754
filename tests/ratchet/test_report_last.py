"""The closing table with `evaluation.report_last`: the learner as the run left it, whichever weights were the best."""

import shutil

import pytest
import torch
from conftest import write_problems
from safetensors.torch import load_file

from owpo.exporting import export
from owpo.recipes import build_config
from owpo.report.record import read_run
from owpo.report.summary import scores
from owpo.run import resume, train
from owpo.runs.checkpoints import CheckpointStore


@pytest.fixture
def never_right(recipe_data, tmp_path) -> dict:
    """No selection problem can be solved, so that of equals the first evaluation, after step 2, stays the best."""
    write_problems(tmp_path / "selection.jsonl", [{"prompt": "7=", "answer": "7777777"}])
    recipe_data["evaluation"]["report_last"] = True
    return recipe_data


def test_the_end_is_measured_beside_the_best(never_right, tmp_path):
    run = train(build_config(never_right, "test"))
    assert [row["version"] for row in run.rows] == ["base", "stage1-step2", "stage1-end"]
    assert [row.get("last") for row in run.rows] == [None, None, True]
    kept = CheckpointStore(run.folder / "checkpoints").load_newest()
    weights = load_file(run.version_folder("stage1-end") / "model.safetensors")
    assert all(torch.equal(kept.weights[name], tensor) for name, tensor in weights.items())
    assert [score.role for score in scores(read_run(run.folder))][-1] == "end of the run"
    assert export(str(run.folder), tmp_path / "model").source.endswith("stage1-step2")  # the best, as ever


def test_a_run_that_is_killed_while_it_closes_measures_the_same_end(never_right):
    run = train(build_config(never_right, "test"))
    before = (run.folder / "result.json").read_bytes()
    (run.folder / "result.json").unlink()
    shutil.rmtree(run.folder / "report" / "stage1-end")
    shutil.rmtree(run.folder / "versions" / "stage1-end")
    resume(run.folder)
    assert (run.folder / "result.json").read_bytes() == before


def test_an_end_that_is_the_best_is_measured_once(recipe_data):
    recipe_data["evaluation"] |= {"report_last": True, "every": 4}
    run = train(build_config(recipe_data, "test"))
    assert [(row["version"], row.get("last")) for row in run.rows] == [("base", None), ("stage1-step4", True)]


def test_every_k_has_its_end_already(never_right):
    never_right["ratchet"] = {"protocol": "every_k", "steps": 6, "k": 3}
    never_right["evaluation"]["every"] = 2
    run = train(build_config(never_right, "test"))
    rows = {row["version"]: row for row in run.rows}
    assert rows["stage2-end"]["last"] is True
    assert "stage" not in rows["stage2-end"]


def test_without_the_entry_only_what_was_chosen(never_right):
    never_right["evaluation"]["report_last"] = False
    run = train(build_config(never_right, "test"))
    assert [row["version"] for row in run.rows] == ["base", "stage1-step2"]
    assert not (run.folder / "versions" / "stage1-end").exists()
