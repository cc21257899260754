"""Studies that run: what is done stays, what was begun goes on, what is another's is refused, and what is written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import as_toml
from study_files import study_data, write_study

from owpo.cli import main
from owpo.disk.lock import run_lock
from owpo.errors import InputError, RunFailed
from owpo.run import train
from owpo.study import conduct as conducting
from owpo.study.conduct import conduct, default_jobs, write_stored
from owpo.study.file import read_study
from owpo.study.grid import runs_of
from owpo.study.jobs import transfer_folders
from owpo.study.stored import stale_texts
from owpo.study.workers import Failure

TEXTS = ["README.md", "tables.md", "tables.csv"]


@pytest.fixture
def small(recipe_data) -> dict:
    recipe_data["rollout"]["group_size"] = 4
    data = study_data(recipe_data, measure=["best", "last"])
    return {**data, "recipe": {**data["recipe"], "ratchet": {"protocol": "fixed", "steps": 2}}}


@pytest.fixture
def done_here(monkeypatch) -> list[str]:
    """Runs go on in this process, one after another; their names. One whose name has "fails" in it does."""
    begun = []

    def work(jobs, num_workers, stop, on_end):
        failures = []
        for job in jobs:
            begun.append(job.key)
            if "fails" in job.key:
                failures.append(Failure(job, 1, "no luck"))
                on_end(job, failures[-1])
                continue
            assert main(job.words()) == 0
            on_end(job, None)
        return failures

    monkeypatch.setattr(conducting, "work", work)
    return begun


def files(folder: Path) -> dict[str, bytes]:
    names = [*TEXTS, "results.jsonl", "figures/curves.svg"]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_study_from_start_to_tables(small, tmp_path, done_here):
    file, out, told = write_study(tmp_path, small), tmp_path / "out", []
    page = conduct(read_study(file), out, tell=told.append)
    assert sorted(done_here) == ["dapo-seed0", "dapo-seed1", "owpo-seed0", "owpo-seed1"]
    assert page == out / "README.md"
    assert "4 of 4 runs are finished" in page.read_text()
    assert told[0] == f"Which objective: 4 runs, 0 of them done; {out}"
    assert told[-1].startswith("[4 of 4] owpo-seed1: best ")
    assert (out / "figures" / "curves.svg").read_text().count("<svg") == 1

    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for line in results:
        run = out / "runs" / f"{line['arm']}-seed{line['seed']}"
        rows = {row["version"]: row for row in json.loads((run / "result.json").read_text())["rows"]}
        for score in (line["base"], line["best"], line["last"]):
            accuracy = sum(score["correct"]) / len(score["correct"]) / score["samples"]
            assert accuracy == pytest.approx(rows[score["version"]]["accuracy"])
        assert rows[line["last"]["version"]]["last"] is True
        assert [point[0] for point in line["curve"]] == [2]

    # Once more: nothing is run, and the same is written. Nor without the run folders, and without reading them.
    before = files(out)
    done_here.clear()
    conduct(read_study(file), out, tell=told.append)
    assert (done_here, files(out)) == ([], before)
    shutil.rmtree(out / "runs")
    conduct(read_study(file), out, tell=told.append)
    assert (done_here, files(out)) == ([], before)

    # Of the stored lines alone, in another place.
    stored = tmp_path / "stored"
    stored.mkdir()
    shutil.copy(out / "results.jsonl", stored)
    assert stale_texts(file, stored) == TEXTS
    write_stored(read_study(file), stored)
    assert stale_texts(file, stored) == []
    assert files(stored) == before


def test_what_is_there_already(small, tmp_path, done_here):
    """A run that was begun goes on, also in a folder that was moved; one of another configuration is refused."""
    file, out = write_study(tmp_path, small), tmp_path / "out"
    run = next(run for run in runs_of(read_study(file), tmp_path / "elsewhere") if run.point.arm == "owpo")
    run.folder.parent.mkdir(parents=True)
    train(run.config)
    (run.folder / "result.json").unlink()  # as if it had been killed while it closed
    (out / "runs").mkdir(parents=True)
    shutil.move(run.folder, out / "runs")
    conduct(read_study(file), out, tell=lambda _: None)
    assert len(done_here) == 4
    log = [json.loads(line) for line in (out / "runs" / "owpo-seed0" / "environment.jsonl").open()]
    assert len(log) == 2

    (out / "results.jsonl").unlink()
    done_here.clear()
    small["arms"] = {
        **small["arms"],
        "owpo": {"ratchet": {"reference": "base"}, "training": {"learning_rate": 0.5}},
    }
    file = write_study(tmp_path, small)
    with pytest.raises(InputError) as refused:
        conduct(read_study(file), out, tell=lambda _: None)
    for said in ("owpo-seed0", "owpo-seed1", "training.learning_rate was 0.01, is now 0.5", "by --out"):
        assert said in str(refused.value)
    assert "dapo-seed0" not in str(refused.value)
    assert done_here == []


def test_a_run_that_fails(small, tmp_path, done_here, capsys):
    small |= {"seeds": [0], "arms": {**small["arms"], "fails": small["arms"]["owpo"]}}
    file, out = write_study(tmp_path, small), tmp_path / "out"
    with pytest.raises(
        RunFailed, match=r"1 of 3 runs failed: fails-seed0 \(exit code 1, .*fails-seed0.log: no luck\)"
    ):
        conduct(read_study(file), out)
    assert "[3 of 3] fails-seed0: failed with exit code 1" in capsys.readouterr().out
    assert "1 of 3 runs are missing." in (out / "tables.md").read_text()
    assert main(["study", str(file), "--out", str(out)]) == 1
    assert done_here == ["dapo-seed0", "owpo-seed0", "fails-seed0", "fails-seed0"]


def test_a_base_is_made_once_before_the_runs(small, tmp_path, done_here, monkeypatch):
    made = []
    monkeypatch.setattr(
        conducting, "ensure_base", lambda recipe, path, on_step: made.append((recipe.terms, str(path)))
    )
    small["recipe"] = {**small["recipe"], "model": {"path": str(tmp_path / "base"), "make": {"terms": 2}}}
    study = read_study(write_study(tmp_path, small))
    monkeypatch.setattr(conducting, "work", lambda *_: [])
    conduct(study, tmp_path / "out", tell=lambda _: None)
    assert made == [(2, str(tmp_path / "base"))]


def test_results_of_other_settings_are_not_tabulated(small, tmp_path, done_here):
    small |= {
        "seeds": [0],
        "arms": {"dapo": small["arms"]["dapo"]},
        "reduced": {"training.warmup_updates": 2},
    }
    file, out = write_study(tmp_path, small), tmp_path / "out"
    with pytest.raises(InputError, match=r"no results in .*; run the study first: owpo study which"):
        write_stored(read_study(file), out)
    conduct(read_study(file), out, tell=lambda _: None)
    with pytest.raises(InputError, match="of other settings than the study asks for now: dapo-seed0"):
        write_stored(read_study(file, full=True), out)
    lines = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(lines.replace('"steps": 2', '"steps": "two"'))
    with pytest.raises(InputError, match="results.jsonl, line 1: steps"):
        write_stored(read_study(file), out)


@pytest.fixture
def chained(small) -> dict:
    """An arm that learns against another, which is measured on another set too."""
    small["recipe"] = {
        **small["recipe"],
        "evaluation": {**small["recipe"]["evaluation"], "report_samples": 2},
    }
    return {
        **small,
        "seeds": [0],
        "pass_at": 2,
        "metrics": ["kl_to_reference", "locked"],
        "tasks": {"easy": {"transfer": {"again": small["recipe"]["problems"]["report"]}}},
        "arms": {
            "owpo": {"reference": "dapo"},
            "opd": {"objective": {"name": "opd"}, "reference": "start"},
            "dapo": small["arms"]["dapo"],
        },
        "references": {"start": {"objective": {"name": "dapo"}, "ratchet": {"steps": 1}}},
    }


def test_a_run_that_learns_against_another(chained, tmp_path):
    """With processes of its own."""
    file, out, told = write_study(tmp_path, chained), tmp_path / "out", []
    conduct(read_study(file), out, jobs=2, tell=told.append)
    results = {line["arm"]: line for line in map(json.loads, (out / "results.jsonl").open())}
    assert list(results) == ["start", "owpo", "opd", "dapo"]
    for arm, teacher in (("owpo", "dapo"), ("opd", "start")):
        run = out / "runs" / f"easy-{arm}-seed0"
        best = out / "runs" / f"easy-{teacher}-seed0" / "versions"
        config = json.loads((run / "config.json").read_text())
        assert config["ratchet"]["reference"] == str(best / results[teacher]["best"]["version"])
    assert set(results["owpo"]["metrics"]) == {"kl_to_reference", "locked"}
    assert [step for step, _ in results["owpo"]["metrics"]["locked"]] == [2]
    assert results["dapo"]["metrics"] == {}
    assert results["dapo"]["responses"] > 0
    # The set is the report set once more, so the numbers are of the same size, and the base is measured once.
    transfer = {arm: results[arm]["transfer"] for arm in ("owpo", "opd", "dapo")}
    assert all(
        len(each["again"]["best"]["correct"]) == len(results["dapo"]["best"]["correct"])
        for each in transfer.values()
    )
    assert [each["again"]["base"] is None for each in transfer.values()] == [True, True, False]
    assert results["start"]["transfer"] == {}
    # Each run measures the base, its reference and its best; whatever has the same weights is sampled once.
    measured = [json.loads(each.read_text()) for each in out.glob("runs/*/report/*/evaluation.json")]
    assert len(measured) == 10
    assert len(list((out / "evaluations").iterdir())) == len({each["model_hash"] for each in measured}) < 10
    page = (out / "README.md").read_text()
    for said in (
        "**easy: the references, their best checkpoints**",
        "**easy: the last stage's best checkpoint, on again**",
        "**easy: while it was trained**",
        "| pass@2, % |",
        "learns against the best checkpoint of `dapo`",
        "(figures/metrics-easy.svg)",
        f"- a run: {results['start']['responses']} to {results['dapo']['responses']} responses to train on, ",
    ):
        assert said in page

    # In another place nothing is run again; an arm more needs the folder of what it learns against.
    before = (out / "results.jsonl").read_bytes()
    moved = tmp_path / "moved"
    shutil.move(out, moved)
    told.clear()
    conduct(read_study(file), moved, tell=told.append)
    assert told == [f"Which objective: 4 runs, 4 of them done; {moved}"]
    assert (moved / "results.jsonl").read_bytes() == before
    chained["arms"] = {**chained["arms"], "more": {"reference": "owpo"}}
    shutil.rmtree(moved / "runs")
    with pytest.raises(InputError, match=r"easy-owpo-seed0, .* is gone; remove its line from results.jsonl"):
        conduct(read_study(write_study(tmp_path, chained)), moved, tell=lambda _: None)


def test_a_reference_that_was_made_anew(chained, tmp_path, done_here):
    """What learned against the earlier one is not passed off as of the new one; nor is another set of the same name."""
    chained["arms"] = {"opd": chained["arms"]["opd"], "dapo": chained["arms"]["dapo"]}
    out, transfer = tmp_path / "out", chained["tasks"]["easy"].pop("transfer")
    conduct(read_study(write_study(tmp_path, chained)), out, tell=lambda _: None)
    start = out / "runs" / "easy-start-seed0"
    chained["references"]["start"]["training"] = {"learning_rate": 0.5}
    shutil.rmtree(start)
    (changed,) = [
        r for r in runs_of(read_study(write_study(tmp_path, chained)), out) if r.point.arm == "start"
    ]
    train(changed.config)
    with pytest.raises(InputError, match="easy-opd-seed0 learned against an earlier run of easy-start-seed0"):
        conduct(read_study(write_study(tmp_path, chained)), out, tell=lambda _: None)
    (start / "result.json").unlink()
    with pytest.raises(InputError, match="easy-opd-seed0 learned against an earlier run"):
        conduct(read_study(write_study(tmp_path, chained)), out, tell=lambda _: None)

    def folders(limit: int) -> list[Path]:
        chained["tasks"]["easy"]["transfer"] = {"again": {**transfer["again"], "limit": limit}}
        (run,) = [r for r in runs_of(read_study(write_study(tmp_path, chained)), out) if r.point.arm == "opd"]
        return [path for _, _, path in transfer_folders(run, out)]

    assert folders(1) == folders(1) != folders(2)


def test_one_study_a_folder(small, tmp_path, done_here):
    study = read_study(write_study(tmp_path, small))
    (tmp_path / "out").mkdir()
    with run_lock(tmp_path / "out"), pytest.raises(InputError, match="in use by process"):
        conduct(study, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, or lies in one; name a folder"):
        conduct(study, tmp_path / "file")
    with pytest.raises(InputError, match="--jobs 0 must be 1 or more"):
        conduct(study, tmp_path / "out", jobs=0)


def test_a_gpu_is_not_shared(small, tmp_path):
    study = read_study(write_study(tmp_path, small))
    configs = [run.config for run in runs_of(study, tmp_path)]
    assert default_jobs(configs) == len(os.sched_getaffinity(0))
    on_gpu = configs[0].run.model_copy(update={"device": "cuda"})
    assert default_jobs([configs[0].model_copy(update={"run": on_gpu}), *configs[1:]]) == 1


def test_the_command_line(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--list"]) == 2
    assert "there is no study in studies" in capsys.readouterr().err
    (tmp_path / "studies").mkdir()
    write_study(tmp_path / "studies", {**small, "reduced": {"seeds": [0]}})
    assert main(["study", "--list"]) == 0
    assert "Which objective" in (line := capsys.readouterr().out.splitlines()[-2])
    assert line.split()[-2:] == ["2", "4"]
    (tmp_path / "studies" / "bad.toml").write_text(as_toml({"title": "x"}))
    assert main(["study", "--list"]) == 2
    shown = capsys.readouterr()
    assert "which" in shown.out
    assert "question is missing" in shown.err
    assert main(["study"]) == 2
    assert "needs the name of a study, or --list" in capsys.readouterr().err
    assert main(["study", "whihc"]) == 2
    assert "Did you mean 'which'?" in capsys.readouterr().err
    assert main(["study", "which", "--tables", "--jobs", "2"]) == 2
    assert main(["study", "which", "--tables"]) == 2
    assert "no results in runs/studies/which/results.jsonl" in capsys.readouterr().err


def test_a_study_that_is_stopped_goes_on(small, tmp_path, done_here):
    """With processes of its own: SIGTERM to the study stops its runs, which save; the same command ends as if it had
    never been stopped."""
    small |= {"arms": {"dapo": small["arms"]["dapo"]}, "seeds": [0], "measure": "best"}
    small["recipe"] |= {
        "ratchet": {"protocol": "fixed", "steps": 40},
        "evaluation": {"every": 40, "samples": 1},
    }
    file, out = write_study(tmp_path, small), tmp_path / "out"
    words = [sys.executable, "-m", "owpo", "study", str(file), "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = out / "runs" / "dapo-seed0"
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert told.endswith("those at work have saved their state, go on by the same command\n")
    assert not (run / "result.json").exists()
    assert "state saved" in (out / "logs" / "dapo-seed0.log").read_text()
    conduct(read_study(file), out, tell=lambda _: None)
    assert json.loads((out / "results.jsonl").read_text())["steps"] == 40
    (alone,) = runs_of(read_study(file), tmp_path / "alone")
    alone.folder.parent.mkdir(parents=True)
    train(alone.config)
    assert metrics.read_bytes() == (alone.folder / "metrics.jsonl").read_bytes()
