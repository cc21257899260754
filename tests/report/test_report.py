"""What a report says, and that every run has one: finished, going on, killed, just begun."""

import gzip
import json
import math
import re
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import as_toml
from report_fixtures import another, recipe, report_file, run, workplace

from owpo.cli import main
from owpo.core.deviation import kl_would_flip
from owpo.disk.lock import run_lock
from owpo.evaluation.intervals import paired_difference
from owpo.recipes import build_config
from owpo.report.dynamics import StageDeviations, deviations, weight_curve
from owpo.report.page import report_page, save_figures
from owpo.report.record import read_run, read_runs, repetitions
from owpo.report.series import evaluation_points, metric_points, series
from owpo.report.summary import DIFFICULTIES, MOVES, problem_moves, scores
from owpo.report.viewer import viewer_records
from owpo.run import train


def told(page: str) -> str:
    """The page's text without markup and data, as one line."""
    page = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def killed(workplace: Path, name: str, steps: int) -> Path:
    """The folder of a run that SIGKILL has ended after so many steps."""
    data = recipe(workplace, name)
    data["ratchet"] |= {"steps": 500}
    file = workplace / f"{name}.toml"
    file.write_text(as_toml(data), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "owpo", "train", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = workplace / name / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < steps):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return workplace / name


# ---------------------------------------------------------------- what it says


def test_the_answer_is_the_closing_table_with_the_gain_since_the_base(run):
    rows = scores(run)
    assert [row.version for row in rows] == [row["version"] for row in run.result["rows"]]
    base, last = run.report_set["base"], run.report_set[rows[-1].version]
    expected = paired_difference(last.correct_NK.double().mean(dim=1), base.correct_NK.double().mean(dim=1))
    assert rows[-1].since_base == expected
    assert rows[0].since_base is None
    page = told(report_page([run]))
    gain, low, high = (100 * value for value in expected)
    assert f"{gain:+.1f} ({low:+.1f} to {high:+.1f}) points, paired on the same problems" in page


def test_problems_gained_and_lost_are_counted_by_difficulty(run):
    moves = problem_moves(run)
    assert [each.version for each in moves] == [row.version for row in scores(run)[1:]]
    base = run.report_set["base"].correct_NK.double().mean(dim=1)
    for each in moves:
        assert tuple(each.counts) == DIFFICULTIES
        by_difficulty = [sum(each.counts[name][move] for move in MOVES) for name in DIFFICULTIES]
        bounds = torch.tensor([0.0, 0.25, 0.5, 0.75])
        assert by_difficulty == torch.bincount(torch.bucketize(base, bounds.double()), minlength=5).tolist()
        mine, other = (
            run.report_set[id].correct_NK.double().mean(dim=1) for id in (each.version, each.reference)
        )
        gained = int(((mine >= 0.5) & (other < 0.5)).sum())
        assert sum(counts["gained"] for counts in each.counts.values()) == gained


def test_the_recipe_on_the_page_makes_the_run_again(run, workplace):
    page = told(report_page([run]))
    command = re.search(r"owpo train (\S+/config\.json) --run\.folder (\S+-again)", page)
    assert main(["train", command[1], "--run.folder", command[2]]) == 0
    for log in ("metrics.jsonl", "tokens.jsonl.gz", "result.json"):
        assert Path(command[2], log).read_bytes() == (run.folder / log).read_bytes()


def test_the_machine_and_the_versions_are_named(run):
    page = told(report_page([run]))
    start = run.starts[-1]
    for name in ("platform", "torch", "transformers", "python"):
        assert start[name] in page


def test_what_a_new_reference_does_to_the_weights_is_told(run):
    page = told(report_page([run]))
    move = run.moves[-1]["after"]
    assert f"{move['delta']:+.3f} {move['abs_delta']:.3f} {move['kl']:.3f}" in page
    assert (
        f"{100 * move['accelerated']:.1f}% {100 * move['locked']:.1f}% {100 * move['saturated']:.1f}%" in page
    )


def test_a_refused_candidate_is_told_with_its_reason(workplace):
    gate = {"level": 0.05, "min_gain": 0.0}
    data = recipe(
        workplace, "gated", ratchet={"protocol": "best_of_stage", "stages": 2, "steps": 4, "gate": gate},
        training={"learning_rate": 1e-6},
    )  # fmt: skip
    gated = read_run(train(build_config(data, "test")).folder)
    refused = [record for record in gated.lineage if not record["accepted"]]
    assert refused
    page = told(report_page([gated]))
    for record in refused:
        assert f"refused {'; '.join(record['reasons'])}" in page


def test_a_penalty_turns_what_the_core_says_it_turns(run):
    for stage in deviations(run):
        points = stage.turning_points()
        assert points["each"] == 1
        for beta in (1e-3, 0.1, 1.0, 3.0, 100.0):
            share = sum(beta * ratio > 1 for ratio in points["ratios"]) / points["total"]
            flips = kl_would_flip(stage.delta, stage.size, beta).double().mean().item()
            assert share == pytest.approx(flips, abs=1e-9)
    assert sum(len(stage.delta) for stage in deviations(run)) == sum(
        delta is not None
        for record in run.tokens
        if record["kind"] == "training"
        for delta in record.get("delta", ())
    )


def test_many_turning_points_are_thinned_evenly():
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(50_000, generator=generator, dtype=torch.float64)
    stage = StageDeviations(1, "base", delta, torch.full_like(delta, 0.5))
    points = stage.turning_points()
    assert len(points["ratios"]) == 2000
    for beta in (0.3, 1.0, 10.0):
        share = points["each"] * sum(beta * ratio > 1 for ratio in points["ratios"]) / points["total"]
        flips = kl_would_flip(stage.delta, stage.size, beta).double().mean().item()
        assert share == pytest.approx(flips, abs=1e-3)


def test_the_curve_is_the_objectives_own(run):
    delta = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0], dtype=torch.float64)
    assert torch.allclose(weight_curve(run, delta), torch.exp(-delta).clamp(0.8, 1.2))


def test_an_objective_without_a_weight_has_no_curve(workplace):
    data = recipe(workplace, "dapo", objective={"name": "dapo"}, ratchet={"protocol": "fixed", "steps": 2})
    plain = read_run(train(build_config(data, "test")).folder)
    assert weight_curve(plain, torch.zeros(1, dtype=torch.float64)) is None
    assert deviations(plain) == []
    page = report_page([plain])
    assert "one-way" not in told(page).lower().replace("one-way dynamics", "")
    assert 'id="tokens"' in page


# ---------------------------------------------------------------- every run has one


def test_a_killed_run_has_a_report_that_says_so(workplace, capsys):
    folder = killed(workplace, "killed", 11)
    assert main(["report", str(folder)]) == 0
    page = told((folder / "report.html").read_text(encoding="utf-8"))
    steps = len(read_run(folder).metrics)
    place = f"in stage 2 of 3, after step {steps - 8} of 500"
    assert f"Run not finished: {place}" in page
    assert f"Go on with it by: owpo resume {folder}" in page
    assert "On the selection set, by which each stage's best is chosen" in page
    assert "best of stage 1 so far" in page
    assert place in capsys.readouterr().out


def test_a_run_at_work_is_told_as_such(workplace):
    folder = killed(workplace, "working", 2)
    with run_lock(folder):
        assert read_run(folder).status.startswith("still running: in stage 1 of 3, after step")
    assert read_run(folder).status.startswith("not finished")


def test_a_run_before_its_first_step_has_a_report(workplace):
    folder = killed(workplace, "young", 1)
    for name in ("metrics.jsonl", "timing.jsonl", "tokens.jsonl.gz", "evaluations.jsonl", "lineage.jsonl"):
        (folder / name).unlink(missing_ok=True)
    page = told(report_page([read_run(folder)]))
    assert "before the end of its first step" in page
    assert "Nothing has been evaluated yet." in page


def test_logs_that_a_kill_has_cut_are_read_as_far_as_they_go(run, workplace):
    folder = workplace / "cut"
    folder.mkdir()
    (folder / "config.json").write_bytes((run.folder / "config.json").read_bytes())
    for name in ("metrics.jsonl", "timing.jsonl", "evaluations.jsonl", "lineage.jsonl", "tokens.jsonl.gz"):
        (folder / name).write_bytes((run.folder / name).read_bytes()[:-7])
    cut = read_run(folder)
    assert cut.metrics == run.metrics[:-1]
    assert len(run.tokens) > len(cut.tokens) > 0
    assert cut.tokens == run.tokens[: len(cut.tokens)]
    assert "not finished" in told(report_page([cut]))


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_place_that_is_not_there_is_refused(run, tmp_path, capsys):
    assert main(["report", str(run.folder), "--to", str(tmp_path / "no" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_folder_for_a_page_and_a_file_for_figures_are_refused(run, tmp_path, capsys):
    assert main(["report", str(run.folder), "--to", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
    (tmp_path / "taken").write_text("")
    for place in ("taken", "taken/figures"):
        assert main(["report", str(run.folder), "--figures", str(tmp_path / place)]) == 2
        assert "is a file, or lies in one; name a folder" in capsys.readouterr().err


def test_a_page_and_figures_are_not_asked_for_at_once(run, tmp_path, capsys):
    assert (
        main(["report", str(run.folder), "--to", str(tmp_path / "a.html"), "--figures", str(tmp_path)]) == 2
    )
    assert "give one of them" in capsys.readouterr().err


def test_a_report_changes_nothing_in_the_run(workplace, run):
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    main(["report", str(run.folder), "--to", str(workplace / "elsewhere.html")])
    assert {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()} == before


# ---------------------------------------------------------------- the page itself


def test_the_same_run_gives_the_same_page(run):
    assert report_page([run]) == report_page([read_run(run.folder, run.name)])


def test_nothing_that_a_model_wrote_is_markup(report_file, run):
    page = report_file.read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<b>" not in page
    assert "<img" not in page
    assert "<!--" not in page
    start = page.index('id="data">') + len('id="data">')
    data = json.loads(page[start : page.index("</script>", start)])
    pieces = {piece for record in data["runs"][0]["records"] for piece in record["pieces"]}
    assert {"<script>window.hacked=1</script>", "</template>"} <= pieces


def test_the_page_allows_nothing_from_outside(report_file):
    page = report_file.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)


def test_records_beyond_the_budget_are_thinned_and_the_page_says_so(run, monkeypatch):
    sizes = [len(json.dumps(record)) for record in viewer_records(run, 10**9)]
    assert len(sizes) == len(run.tokens)
    budget = sum(sizes) // 3
    fewer = viewer_records(run, budget)
    assert sum(len(json.dumps(record)) for record in fewer) <= budget
    assert {record["stage"] for record in fewer} == set(run.stages)
    for stage in run.stages:  # the watched problems as each stage left them
        last = max(record["step"] for record in run.tokens if record["stage"] == stage)
        assert sum(r["kind"] == "watched" and (r["stage"], r["step"]) == (stage, last) for r in fewer) == 3
    monkeypatch.setattr("owpo.report.page._TOKEN_BYTES", budget)
    assert f"On this page: {len(fewer)} of {len(run.tokens)} recorded responses" in told(report_page([run]))
    assert viewer_records(run, 10) == []


# ---------------------------------------------------------------- figures as files


def test_figures_are_svg_and_pdf_and_repeat(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files = save_figures([run], tmp_path / "a")
    names = {file.stem for file in files}
    assert {"ratchet", "one_way", "health_entropy", "health_seconds"} <= names
    assert {file.suffix for file in files} == {".svg", ".pdf"}
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == sorted(file.name for file in files)
    again = save_figures([read_run(run.folder)], tmp_path / "b")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".svg":
            assert "var(--" not in one.read_text(encoding="utf-8")
            ElementTree.parse(one)
        else:
            assert one.read_bytes().startswith(b"%PDF-")


def test_the_command_prints_what_it_wrote(run, tmp_path, capsys):
    assert main(["report", str(run.folder), "--figures", str(tmp_path / "figures")]) == 0
    printed = capsys.readouterr().out.split()
    assert printed
    assert all(Path(file).is_file() for file in printed)


def test_runs_that_differ_by_their_seed_are_one_line_with_an_interval(run, another):
    groups = repetitions([run, another])
    assert groups == {"one (2 seeds)": [run, another]}
    line = series("both", [evaluation_points(run), evaluation_points(another)])
    assert line.x == sorted(evaluation_points(run))
    for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True):
        pair = [evaluation_points(each)[int(x)][0] for each in (run, another)]
        assert y == pytest.approx(statistics.mean(pair))
        half = 12.7062 * statistics.stdev(pair) / math.sqrt(2)  # t, one degree of freedom
        assert (high - y, y - low) == pytest.approx((half, half), rel=1e-4)


def test_other_recipes_are_lines_of_their_own(run, workplace):
    data = recipe(workplace, "other", training={"learning_rate": 1e-3})
    data["ratchet"] |= {"stages": 2}
    other = read_run(train(build_config(data, "test")).folder)
    assert list(repetitions([run, other])) == ["one", "other"]
    page = report_page([run, other])
    assert page.count('class="chart') > 20


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    link = tmp_path / run.folder.name
    link.symlink_to(run.folder)
    (tmp_path / "x").mkdir()
    other = tmp_path / "x" / run.folder.name
    other.symlink_to(run.folder)
    names = [each.name for each in read_runs([link, other])]
    assert len(set(names)) == 2


def test_a_long_run_is_drawn_with_fewer_points(run):
    metrics = [{**run.metrics[0], "total_step": step, "entropy": step / 7} for step in range(1, 3001)]
    files = replace(run, name="long")
    vars(files).update(metrics=metrics, timing=[{} for _ in metrics])
    line = series("entropy", [metric_points(files, "entropy")])
    assert len(line.x) == 400
    assert (line.x[0], line.x[-1]) == (1, 3000)
    assert all(y == x / 7 for x, y in zip(line.x, line.y, strict=True))


# ---------------------------------------------------------------- the records behind it


def test_pandas_reads_the_token_records_in_one_line(run):
    frame = pd.read_json(run.folder / "tokens.jsonl.gz", lines=True)
    assert len(frame) == len(run.tokens)
    for row, record in zip(frame.itertuples(), run.tokens, strict=True):
        assert (row.pieces, row.logp) == (record["pieces"], pytest.approx(record["logp"]))


def test_token_records_are_gzip_that_anything_reads(run):
    with gzip.open(run.folder / "tokens.jsonl.gz", "rt", encoding="utf-8") as stream:
        assert [json.loads(line) for line in stream] == run.tokens
