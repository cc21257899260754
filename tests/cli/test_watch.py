"""Watching a run shows where it stands, whenever and however that is, and changes nothing."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from contextlib import contextmanager

import pytest
from conftest import as_toml
from rich.console import Console

from owpo import watching
from owpo.cli import main
from owpo.disk.lock import is_locked, run_lock
from owpo.errors import InputError, Interrupted
from owpo.policy.model import Policy
from owpo.recipes import build_config
from owpo.run import train
from owpo.stop import StopSignal
from owpo.watching import sparkline, watch


@pytest.fixture
def run(recipe_data):
    """A finished run of four steps."""
    recipe_data["rollout"]["batch_size"] = 16
    return train(build_config(recipe_data, "test")).folder


def unfinished(folder, steps=4):
    """The folder of a run as a kill after so many steps leaves it."""
    (folder / "result.json").unlink()
    for name in ("metrics", "timing"):
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:steps]), encoding="utf-8")
    return folder


def last_steps(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def shown(capsys, *words) -> str:
    """What `owpo watch` prints."""
    capsys.readouterr()
    assert main(["watch", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def contents(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def command(*words) -> list[str]:
    return [sys.executable, "-m", "owpo", *map(str, words)]


@pytest.fixture
def training(recipe_data, tmp_path):
    """Begins a run of the recipe in a process of its own, which ends with the test at the latest."""
    processes = []

    def begin(folder) -> subprocess.Popen:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(as_toml(recipe_data), encoding="utf-8")
        words = command("train", recipe, "--run.folder", folder)
        processes.append(subprocess.Popen(words, stdout=subprocess.DEVNULL))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@contextmanager
def in_a_terminal(*words):
    """The command in a terminal of its own: the process, and a function for what it has shown so far."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(*words), stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)
    pieces = []

    def collect():
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:  # the process has ended
                return
            if not piece:
                return
            pieces.append(piece)

    collector = threading.Thread(target=collect)
    collector.start()

    def told(at_the_end=False) -> str:
        if at_the_end:
            collector.join()
        return b"".join(pieces).decode("utf-8", "replace")

    try:
        yield process, told
    finally:
        process.kill()
        process.wait()
        collector.join()
        os.close(master)


def number_of_lines(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None
        time.sleep(0.005)


def test_a_finished_run_is_shown_whole(run, capsys):
    before = contents(run)
    told = shown(capsys, run, "--once")
    assert contents(run) == before
    assert told.startswith("run: finished: 4 steps in 1 stage\n")
    assert "4 of at most 4 steps\n" in told
    metrics, evaluations = last_steps(run, "metrics"), last_steps(run, "evaluations")
    accuracy = [record["accuracy"] for record in metrics]
    row = next(line for line in told.splitlines() if line.startswith("accuracy"))
    assert row.split() == [
        "accuracy",
        f"{accuracy[-1]:.1%}",
        sparkline(accuracy),
        f"{min(accuracy):.1%}",
        f"{max(accuracy):.1%}",
    ]
    row = next(line for line in told.splitlines() if line.startswith("selection set"))
    assert row.split()[2:4] == [
        f"{evaluations[-1]['accuracy']:.1%}",
        sparkline([e["accuracy"] for e in evaluations]),
    ]
    for name, _ in watching._METRICS:
        assert f"\n{name} " in told
    assert "reference in force: base" in told
    for record in last_steps(run, "rollouts")[-3:]:
        place = (
            f"{record['verdict']}, step {record['step']}, {record['problem']}, expected {record['answer']}: "
        )
        assert f"{place}{record['response'].strip()}\n" in told


def test_a_run_without_any_step_has_nothing_but_its_state(recipe_data, monkeypatch, capsys):
    config = build_config(recipe_data, "test")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopSignal, "check", lambda self: (_ for _ in ()).throw(Interrupted("SIGTERM")))
        train(config)
    told = shown(capsys, config.run.folder)
    assert " ".join(told.split()) == (
        "run: not finished: before the end of its first step; what follows is what was measured up to there, without "
        f"a closing table. Go on with it by: owpo resume {config.run.folder}"
    )


def test_a_run_that_was_killed_says_where_and_how_to_go_on(recipe_data, tmp_path, capsys, training):
    recipe_data["ratchet"]["steps"] = 4000
    folder = tmp_path / "run"
    process = training(folder)
    wait_until(lambda: number_of_lines(folder / "metrics.jsonl") >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = contents(folder)
    told = " ".join(shown(capsys, folder).split())
    assert contents(folder) == before
    steps = number_of_lines(folder / "metrics.jsonl")
    assert f"not finished: in stage 1 of 1, after step {steps} of 4000; " in told
    assert f"Go on with it by: owpo resume {folder}" in told
    assert f"{steps} of at most 4000 steps, about " in told


def test_a_run_is_watched_to_its_end_and_is_none_the_worse(recipe_data, tmp_path, training):
    recipe_data["ratchet"]["steps"] = 30
    recipe_data["evaluation"]["every"] = 10
    whole = train(build_config(recipe_data, "test"))
    folder = tmp_path / "watched"
    process = training(folder)
    wait_until(lambda: number_of_lines(folder / "metrics.jsonl") >= 2, process)
    process.send_signal(signal.SIGSTOP)  # it is held while the watcher starts
    with in_a_terminal("watch", folder, "--every", "0.05") as (watcher, told):
        wait_until(lambda: "watched: still running: in stage 1 of 1, after step " in told(), watcher)
        process.send_signal(signal.SIGCONT)
        looks = 0
        while process.poll() is None:
            watch(folder, Console(file=io.StringIO(), width=80))
            looks += 1
            time.sleep(0.005)
        assert watcher.wait() == 0
        text = told(at_the_end=True)
    assert looks > 10
    assert process.returncode == 0
    assert text.rindex("still running") < text.index("watched: finished: 30 steps in 1 stage")
    assert (folder / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()


def test_ctrl_c_ends_it_quietly(run):
    unfinished(run)
    with in_a_terminal("watch", run, "--every", "0.02") as (process, told):
        wait_until(lambda: told().count("not finished") >= 2, process)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        text = told(at_the_end=True)
    assert "Traceback" not in text
    assert "owpo:" not in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back, and nothing follows


def test_what_is_no_terminal_is_written_to_once(run, capsys):
    told = shown(capsys, unfinished(run, steps=3))
    assert told.count("not finished: in stage 1 of 1, after step 3 of 4") == 1
    assert "\x1b" not in told


def test_once_is_once_in_a_terminal_too(run):
    file = io.StringIO()
    watch(unfinished(run), Console(file=file, force_terminal=True, width=100), once=True)
    assert file.getvalue().count("not finished") == 1


@pytest.mark.parametrize("kind", ["a folder", "a file", "nothing"])
def test_what_is_no_run_is_refused(tmp_path, capsys, kind):
    path = tmp_path / "x"
    if kind == "a folder":
        path.mkdir()
    if kind == "a file":
        path.write_text("x")
    assert main(["watch", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"owpo: {str(path)!r} is not a run folder (it has no config.json); start one with owpo train RECIPE\n"
    )


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf", "1e9"])
def test_a_pause_that_is_none_is_refused(run, capsys, every):
    assert main(["watch", str(run), "--every", every]) == 2
    assert f"--every {float(every):g} must be above 0 and at most 86400" in capsys.readouterr().err


def test_the_folder_that_one_stands_in_has_its_name(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    assert shown(capsys, ".").startswith("run: finished")


def test_what_a_model_writes_does_not_drive_the_terminal(recipe_data, tmp_path, monkeypatch, capsys):
    hostile = ["\x1b]0;owned\x07\x1b[2J\x1b[31m5\x1b[8m", "\x9b2J\u202e5\r\x08\x00", "[/red] [bold]5"]
    monkeypatch.setattr(
        Policy,
        "decode_all",
        lambda self, responses: [hostile[i % 3] for i in range(len(responses.lengths))],
    )
    recipe_data["run"]["folder"] = str(tmp_path / "a\x1b[2Jrun")
    recipe_data["ratchet"]["steps"] = 1
    folder = train(build_config(recipe_data, "test")).folder
    told = shown(capsys, folder)
    assert [char for char in told if unicodedata.category(char) in ("Cc", "Cf") and char != "\n"] == []
    assert told.startswith("a\\x1b[2Jrun: finished")
    assert [text in told for text in ("\\x1b]0;owned\\x07", "\\x9b2J\\u202e5\\r", "[/red] [bold]5")] == [
        True
    ] * 3


def test_a_long_response_is_shown_by_its_end(run, capsys):
    rollouts = last_steps(run, "rollouts")
    rollouts[-1]["response"] = "a" * 150_000 + "bcd"
    rollouts[-2]["response"] = "x\n" * 50 + "y"
    text = "".join(json.dumps(record) + "\n" for record in rollouts)
    (run / "rollouts.jsonl").write_text(text, encoding="utf-8")
    told = shown(capsys, run)
    assert re.search(r"\.\.\.\s+a{70}", told)
    assert told.count("a" * 70) == 3  # 300 characters of it, and not 150,000
    assert "bcd" in told
    assert "... x\nx\nx\nx\nx\ny\n" in told
    assert told.count("\nx") == 4


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 200])
def test_a_picture_fits_its_terminal_and_shows_the_newest(run, width):
    metrics, timing = last_steps(run, "metrics"), last_steps(run, "timing")
    for name, records in (("metrics", metrics), ("timing", timing)):
        many = [{**record, "accuracy": number / 100} for number in range(100) for record in records[:1]]
        (run / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in many))
    file = io.StringIO()
    watch(run, Console(file=file, width=width))
    lines = file.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    if width >= 40:
        row = next(line for line in lines if line.startswith("accuracy"))
        bars = re.search("[▁-█]+", row)[0]
        assert (bars[0], bars[-1]) == ("▁", "█")
        assert len(bars) == {40: 12, 60: 12, 80: 32, 200: 40}[width]
        assert "…" not in row


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_look_in_mid_write_sees_what_was_whole(run, capsys, cut):
    unfinished(run)
    for name in ("metrics", "timing", "rollouts", "evaluations", "lineage"):
        file = run / f"{name}.jsonl"
        file.write_bytes(file.read_bytes() + b'{"stage": 1, "lineage": "A", "step": 5, "x": "\xc3'[:cut])
    told = shown(capsys, run)
    assert "after step 4 of 4" in told
    assert "4 of at most 4 steps" in told


def test_metrics_may_be_a_step_ahead_of_timing(run, capsys):
    unfinished(run)
    timing = run / "timing.jsonl"
    timing.write_text("".join(timing.read_text().splitlines(keepends=True)[:3]))
    told = shown(capsys, run)
    newest = last_steps(run, "metrics")[-1]["accuracy"]
    assert f"{newest:.1%}" == next(row for row in told.splitlines() if row.startswith("accuracy")).split()[1]
    assert "4 of at most 4 steps" in told
    timing.write_text("")
    assert "4 of at most 4 steps, about 0 s left" in shown(capsys, run)


def test_a_damaged_line_is_told(run, capsys):
    file = run / "rollouts.jsonl"
    file.write_bytes(file.read_bytes() + b"{\xff\n")
    assert main(["watch", str(run)]) == 2
    assert f"owpo: {file} is damaged (" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_left_out(run, capsys):
    metrics = last_steps(run, "metrics")
    metrics[0]["grad_norm"], metrics[1]["grad_norm"], metrics[2]["grad_norm"] = (
        float("nan"),
        float("inf"),
        None,
    )
    metrics[3]["grad_norm"] = 2.0
    for record in metrics:
        record["entropy"] = float("nan")
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    rows = {line.split()[0]: line.split() for line in shown(capsys, run).splitlines() if line}
    assert rows["grad_norm"] == ["grad_norm", "2.000", "▁", "2.000", "2.000"]
    assert "entropy" not in rows


@pytest.mark.parametrize(
    ("seconds", "left"),
    [([1, 1], "2 s"), ([60, 62], "2 min 02 s"), ([1850, 1850], "1 h 01 min"), ([0.1, 0.1], "0 s")],
)
def test_the_time_left_is_the_steps_left_at_their_usual_duration(run, capsys, seconds, left):
    unfinished(run, steps=2)
    timing = last_steps(run, "timing")
    for record, taken in zip(timing, seconds, strict=True):
        record["seconds"] = taken
    (run / "timing.jsonl").write_text("".join(json.dumps(record) + "\n" for record in timing))
    assert f"2 of at most 4 steps, about {left} left" in shown(capsys, run)


def test_a_run_of_another_user_is_known_to_be_running(run, monkeypatch):
    def refuse(_process, _number):
        raise PermissionError

    assert not is_locked(run)
    with run_lock(run):
        monkeypatch.setattr(os, "kill", refuse)
        assert is_locked(run)


def test_a_folder_that_vanishes_is_told(run, monkeypatch):
    unfinished(run)
    monkeypatch.setattr(watching.time, "sleep", lambda _seconds: run.rename(run.with_name("elsewhere")))
    with pytest.raises(InputError, match="is not a run folder"):
        watch(run, Console(file=io.StringIO(), force_terminal=True))


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([3.0, 3.0, 3.0], 40, "▁▁▁"),
        ([5.0], 40, "▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 40, "▁▂▃▄▅▆▇█"),
        ([-1.0, 1.0, 0.2], 40, "▁█▅"),  # 1.2 of 2 is 4.2 of 7
        ([0, 0, 4, 8], 2, "▁█"),
        ([0, 2, 3, 5, 9, 13], 3, "▁▃█"),  # means 1, 4, 11: 3 of 10 is 2.1 of 7
        ([1, 1, 4, 4, 4], 2, "▁█"),
        ([1, 3, 5, 7, 9], 4, "▁▃▅█"),  # edges 0, 1, 2, 4, 5: 1, 3, 6, 9; 1.75 of 7 and 4.375 of 7
    ],
)
def test_a_sparkline_by_hand(values, width, bars):
    assert sparkline(values, width) == bars
