"""A run that was stopped, however, ends exactly where an uninterrupted one ends."""

import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import as_toml
from safetensors.torch import load_file

from owpo.errors import InputError, Interrupted
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.runs.checkpoints import CheckpointStore
from owpo.stop import StopSignal
from owpo.training.display import Display

LEAPFROG = {"protocol": "leapfrog", "stages": 3, "first_steps": 3, "steps": 5}
EVERY_K = {"protocol": "every_k", "steps": 8, "k": 3}
BEST_OF_STAGE = {"protocol": "best_of_stage", "stages": 3, "steps": 3}


def everything_that_counts(folder: Path) -> dict:
    """All that must not depend on interruptions: logs, versions, result, final weights and optimiser."""
    logs = ("metrics", "rollouts", "evaluations", "lineage", "moves")
    names = [*(f"{name}.jsonl" for name in logs), "result.json"]
    found: dict = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    found["tokens.jsonl.gz"] = (folder / "tokens.jsonl.gz").read_bytes()
    for file in sorted((folder / "versions").rglob("*")):
        if file.is_file():
            found[str(file.relative_to(folder))] = file.read_bytes()
    newest = CheckpointStore(folder / "checkpoints").load_newest()
    found["progress"] = newest.progress.to_json()
    for name, tensor in {**newest.weights, **newest.optimizer}.items():
        found[f"final {name}"] = tensor.numpy().tobytes()
    return found


def assert_same(one: Path, other: Path) -> None:
    expected, actual = everything_that_counts(one), everything_that_counts(other)
    assert actual.keys() == expected.keys()
    assert [name for name in expected if actual[name] != expected[name]] == []


def in_folder(data: dict, folder: Path, **sections) -> dict:
    return {**data, **sections, "run": {**data["run"], "folder": str(folder)}}


@pytest.mark.parametrize("ratchet", [LEAPFROG, EVERY_K, BEST_OF_STAGE], ids=lambda r: r["protocol"])
def test_stops_at_every_kind_of_moment_change_nothing(recipe_data, tmp_path, monkeypatch, ratchet):
    """A stop is looked for while sampling, while evaluating and between steps; one chance in six is taken."""
    whole = train(build_config(in_folder(recipe_data, tmp_path / "whole", ratchet=ratchet), "test"))
    config = build_config(in_folder(recipe_data, tmp_path / "parts", ratchet=ratchet), "test")

    chance = random.Random(3)
    real_check = StopSignal.check

    def check(self, *args):
        if chance.random() < 1 / 6:
            self.received = "SIGTERM"
        real_check(self, *args)

    monkeypatch.setattr(StopSignal, "check", check)
    stops = 0
    run = None
    while run is None:
        try:
            run = resume(config.run.folder) if Path(config.run.folder).exists() else train(config)
        except Interrupted:
            stops += 1
            assert stops < 100
    assert stops > 3
    assert run.rows == whole.rows
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_stop_before_the_first_step_begins_nothing_twice(recipe_data, tmp_path, monkeypatch):
    train(build_config(in_folder(recipe_data, tmp_path / "whole", ratchet=BEST_OF_STAGE), "test"))
    config = build_config(in_folder(recipe_data, tmp_path / "parts", ratchet=BEST_OF_STAGE), "test")
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "check", lambda self: (_ for _ in ()).throw(Interrupted("SIGTERM")))
        with pytest.raises(Interrupted):
            train(config)
        with pytest.raises(Interrupted):
            resume(config.run.folder)
    resume(config.run.folder)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def start(words: list[str], log: Path) -> subprocess.Popen:
    with log.open("a") as stream:
        return subprocess.Popen([sys.executable, "-m", "owpo", *words], stdout=stream, stderr=stream)


def test_sigkill_at_random_moments_changes_nothing(recipe_data, tmp_path):
    """The real command, killed where it happens to be (a reference move lies in between), and resumed."""
    data = in_folder(recipe_data, tmp_path / "whole", ratchet=LEAPFROG)
    data["ratchet"] = {**LEAPFROG, "steps": 60, "first_steps": 40}
    data["rollout"] = {**data["rollout"], "group_size": 64}  # steps slow enough to be killed among
    data["run"]["checkpoint_every"] = 5
    train(build_config(data, "test"))

    data["run"]["folder"] = str(tmp_path / "killed")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(data), encoding="utf-8")
    log = tmp_path / "log.txt"
    chance = random.Random(7)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    kills, stages_at_kill = 0, set()
    target = 0
    while True:
        process = start(["train", str(recipe), "--resume"], log)
        target = max(target, number_of_lines(metrics)) + chance.randint(25, 45)
        while process.poll() is None and number_of_lines(metrics) < target:
            time.sleep(0.001)
        if process.poll() is not None:
            break
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        stages_at_kill.add(json.loads(metrics.read_text().splitlines()[-1])["stage"])
    assert process.returncode == 0, log.read_text()[-2000:]
    assert kills >= 3
    assert len(stages_at_kill) >= 2, "the kills must lie on both sides of a reference move"
    assert_same(tmp_path / "whole", tmp_path / "killed")


def number_of_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_sigterm_saves_and_says_how_to_go_on(recipe_data, tmp_path):
    data = in_folder(recipe_data, tmp_path / "run", ratchet={**EVERY_K, "steps": 4000, "k": 4000})
    data["evaluation"]["every"] = 5000
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(data), encoding="utf-8")
    log = tmp_path / "log.txt"
    process = start(["train", str(recipe), "--run.checkpoint_every", "100000"], log)
    while number_of_lines(tmp_path / "run" / "metrics.jsonl") < 3:
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 75
    assert f"stopped (SIGTERM), state saved; go on by: owpo resume {tmp_path / 'run'}" in log.read_text()
    saved = CheckpointStore(tmp_path / "run" / "checkpoints").load_newest()
    assert saved.progress.total_steps == number_of_lines(tmp_path / "run" / "metrics.jsonl")


def test_a_flipped_byte_costs_only_the_steps_since_the_checkpoint_before(recipe_data, tmp_path, caplog):
    train(build_config(in_folder(recipe_data, tmp_path / "whole", ratchet=EVERY_K), "test"))
    train(build_config(in_folder(recipe_data, tmp_path / "damaged", ratchet=EVERY_K), "test"))
    (tmp_path / "damaged" / "result.json").unlink()
    store = CheckpointStore(tmp_path / "damaged" / "checkpoints")
    file = store.folder / store.listed()[-1]["name"] / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    resume(tmp_path / "damaged")
    assert "is damaged (model.safetensors has other bytes than were written)" in caplog.text
    assert_same(tmp_path / "whole", tmp_path / "damaged")


def interrupted_run(recipe_data, tmp_path, monkeypatch, ratchet, total_steps) -> Path:
    """A run folder stopped after `total_steps`."""
    config = build_config(in_folder(recipe_data, tmp_path / "run", ratchet=ratchet), "test")
    real_check = StopSignal.check

    def check(self, *args):
        if number_of_lines(tmp_path / "run" / "metrics.jsonl") >= total_steps:
            self.received = "SIGTERM"
        real_check(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopSignal, "check", check)
        train(config)
    return tmp_path / "run"


def test_a_run_without_its_reference_refuses_to_start(recipe_data, tmp_path, monkeypatch):
    folder = interrupted_run(recipe_data, tmp_path, monkeypatch, EVERY_K, total_steps=4)
    (folder / "versions" / "stage1-end").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"stage1-end.* are gone; restore that folder"):
        resume(folder)
    (tmp_path / "elsewhere").rename(folder / "versions" / "stage1-end")
    resume(folder)


def test_a_reference_with_other_weights_is_refused(recipe_data, tmp_path, monkeypatch):
    folder = interrupted_run(recipe_data, tmp_path, monkeypatch, EVERY_K, total_steps=4)
    file = folder / "versions" / "stage1-end" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="not those that were written"):
        resume(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "version.json"])
def test_a_truncated_reference_is_refused_in_a_sentence(recipe_data, tmp_path, monkeypatch, name):
    folder = interrupted_run(recipe_data, tmp_path, monkeypatch, EVERY_K, total_steps=4)
    file = folder / "versions" / "stage1-end" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=r"versions/stage1-end.*damaged.*restore that folder"):
        resume(folder)


def test_a_reference_exchanged_together_with_its_hash_is_refused(recipe_data, tmp_path, monkeypatch):
    folder = interrupted_run(recipe_data, tmp_path, monkeypatch, EVERY_K, total_steps=4)
    reference, base = folder / "versions" / "stage1-end", folder / "versions" / "base"
    for name in ("model.safetensors", "version.json"):
        (reference / name).write_bytes((base / name).read_bytes())
    with pytest.raises(InputError, match="the checkpoint was made against the reference"):
        resume(folder)


def test_resuming_a_finished_run_gives_its_table_again(recipe_data, tmp_path):
    first = train(build_config(in_folder(recipe_data, tmp_path / "run"), "test"))
    again = resume(tmp_path / "run")
    assert again.rows == first.rows
    assert not torch.equal(
        load_file(tmp_path / "run" / "versions" / "base" / "model.safetensors")["model.norm.weight"],
        load_file(first.version_folder(first.rows[-1]["version"]) / "model.safetensors")["model.norm.weight"],
    )


def test_problems_that_changed_since_the_start_are_refused(recipe_data, tmp_path, monkeypatch):
    folder = interrupted_run(recipe_data, tmp_path, monkeypatch, EVERY_K, total_steps=4)
    path = Path(recipe_data["problems"]["train"]["path"])
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace('"answer": "3"', '"answer": "4"'), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"problems\.train of .* hold other problems than when the run began"
    ):
        resume(folder)
    path.write_text(before, encoding="utf-8")
    resume(folder)


def test_another_machine_is_noted_and_said(recipe_data, tmp_path, monkeypatch):
    class Listening(Display):
        heard = ""

        def warn(self, text):
            self.heard += text

    folder = interrupted_run(recipe_data, tmp_path, monkeypatch, EVERY_K, total_steps=4)
    environment = folder / "environment.jsonl"
    first = json.loads(environment.read_text())
    environment.write_text(json.dumps({**first, "torch": "1.0"}) + "\n")
    display = Listening()
    resume(folder, display=display)
    assert f"torch was '1.0', is now '{torch.__version__}'" in display.heard
    assert environment.read_text().count("\n") == 2


def test_a_run_in_a_thread_needs_no_signals(recipe_data, tmp_path):
    with ThreadPoolExecutor() as pool:
        run = pool.submit(train, build_config(in_folder(recipe_data, tmp_path / "run"), "test")).result()
    assert len(run.metrics()) == 4
