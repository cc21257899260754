"""`owpo train --engine trl`: the ratchet's stages in TRL's trainer, with the gate, the best checkpoint and a resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import write_problems

from owpo.config import AlarmsConfig
from owpo.core.registry import objective
from owpo.disk.logs import JSONLLog
from owpo.errors import InputError, Interrupted, RunFailed
from owpo.hosting import stage
from owpo.policy.load import load_policy
from owpo.policy.weights import content_hash
from owpo.ratchet.gate import Decision
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.training.display import Display
from owpo.training.stage import Task, evaluate_and_keep_best


@pytest.fixture
def data(recipe_data) -> dict:
    recipe_data["run"] |= {"engine": "trl", "checkpoint_every": 1}
    recipe_data["trl"] = {"micro_batch": 16}
    recipe_data["rollout"]["dynamic_sampling"] = False
    recipe_data["ratchet"] = {"protocol": "every_k", "k": 2, "steps": 4}
    return recipe_data


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def hash_of(folder: Path) -> str:
    return content_hash(load_policy(str(folder)).model)


def test_stages_go_on_with_the_optimiser_against_another_reference(data):
    run = train(build_config(data, "test"))
    folder = run.folder
    steps = lines(folder, "metrics")
    assert [(each["stage"], each["step"], each["total_step"]) for each in steps] == [
        (1, 1, 1), (1, 2, 2), (2, 1, 3), (2, 2, 4),
    ]  # fmt: skip
    assert [each["reference"] for each in steps] == ["base", "base", "stage1-end", "stage1-end"]
    assert {"accuracy", "loss", "grad_norm", "delta", "weight", "learning_rate"} <= steps[1].keys()
    assert steps[2]["delta"] == pytest.approx(0, abs=1e-5)  # the reference is the policy, as it should be
    assert abs(steps[3]["delta"]) > 1e-4
    assert [each["in_force"] for each in lines(folder, "lineage")] == ["base", "stage1-end", "stage2-end"]
    assert [each["step"] for each in lines(folder, "evaluations")] == [2, 2]
    # One folder of TRL's, in which the optimiser went on: four updates, and what TRL saved is what was evaluated.
    checkpoint = folder / "host" / "1" / "checkpoints" / "checkpoint-4"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 4
    assert hash_of(checkpoint) == hash_of(folder / "versions" / "stage2-end")
    assert not (folder / "host" / "1" / "exports").exists()


def test_a_gate_decides_between_stages_that_begin_anew(data, monkeypatch):
    """Leapfrog: the second lineage's best is refused, so that the first one's stays the reference."""
    answers = iter([True, False, True])

    def decide(evidence, config, seed):
        refusals = [] if next(answers) else ["dictated"]
        return Decision(refusals=refusals, gain=0.0, p_value=1.0, evidence=evidence, config=config)

    monkeypatch.setattr("owpo.ratchet.candidate.decide", decide)
    selection = [{"id": f"s{n}", "prompt": f"{n}+{n}=", "answer": str(n)} for n in range(10)]
    write_problems(Path(data["problems"]["selection"]["path"]), selection)
    data["ratchet"] = {"protocol": "leapfrog", "stages": 3, "steps": 1, "first_steps": 2, "gate": {}}
    data["evaluation"]["every"] = 1
    folder = train(build_config(data, "test")).folder
    _, first, second, *_ = lines(folder, "lineage")
    assert (first["accepted"], second["accepted"]) == (True, False)
    assert first["candidate"].startswith("stage1-step")
    assert second["in_force"] == first["candidate"]
    steps = lines(folder, "metrics")
    assert [each["objective"] for each in steps] == ["dapo", "dapo", "owpo", "owpo"]
    assert [each["reference"] for each in steps[2:]] == [first["candidate"]] * 2
    assert [path.name for path in (folder / "host").iterdir()] == [
        "3"
    ]  # each stage began with a new optimiser


def test_a_stop_between_evaluations_loses_none(data, monkeypatch):
    data["evaluation"]["every"] = 1
    seen = []

    def once(session, task):
        evaluate_and_keep_best(session, task)
        seen.append(session.progress.step)
        if len(seen) == 1:
            session.stop.received = "SIGTERM"

    monkeypatch.setattr("owpo.hosting.stage.evaluate_and_keep_best", once)
    data["ratchet"] = {"protocol": "fixed", "reference": "base", "steps": 2}
    data["training"]["warmup_updates"] = 4
    with pytest.raises(Interrupted):
        train(build_config(data, "test"))
    folder = Path(data["run"]["folder"])
    started = (folder / "host" / "1" / "host.log").stat().st_size
    resume(folder)
    assert seen == [1, 2]
    assert (folder / "host" / "1" / "host.log").stat().st_size == started  # TRL was not run again
    assert [each["step"] for each in lines(folder, "evaluations")] == [1, 2]
    rates = [each["learning_rate"] for each in lines(folder, "metrics")]
    assert rates == pytest.approx([0.25e-2, 0.5e-2])  # as `owpo train` warms up


def test_stopped_inside_a_stage_its_steps_are_logged_once(data, monkeypatch):
    data["ratchet"] = {"protocol": "fixed", "reference": "base", "steps": 12}
    data["evaluation"]["every"] = 12
    log_new = stage._Steps.log_new

    def until_some(steps):
        log_new(steps)
        if len(steps.logged) >= 3:
            steps.session.stop.received = "SIGTERM"

    with monkeypatch.context() as patch:
        patch.setattr(stage._Steps, "log_new", until_some)
        with pytest.raises(Interrupted):
            train(build_config(data, "test"))
    folder = Path(data["run"]["folder"])
    assert 3 <= len(lines(folder, "metrics")) < 12
    resume(folder)
    assert [each["step"] for each in lines(folder, "metrics")] == list(range(1, 13))
    assert len(lines(folder, "timing")) == 12


def test_a_stop_inside_an_evaluation_repeats_it(data, monkeypatch):
    data["ratchet"] = {"protocol": "fixed", "reference": "base", "steps": 1}

    def stopped(session, task):
        raise Interrupted("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "evaluate_and_keep_best", stopped)
        with pytest.raises(Interrupted):
            train(build_config(data, "test"))
    folder = Path(data["run"]["folder"])
    resume(folder)
    assert [each["step"] for each in lines(folder, "evaluations")] == [1]
    assert len(lines(folder, "metrics")) == 1


def test_steps_that_a_host_does_again_take_the_place_of_the_first_ones(tmp_path):
    logs = {name: JSONLLog(tmp_path / f"{name}.jsonl") for name in ("metrics", "timing", "alarms")}
    logs["metrics"].append({"stage": 1, "step": 1, "total_step": 1})
    told = []
    session = SimpleNamespace(
        folder=SimpleNamespace(logs=logs), progress=SimpleNamespace(total_steps=1), display=Display(),
        track=lambda step, **records: told.append(step), config=SimpleNamespace(alarms=AlarmsConfig()),
    )  # fmt: skip
    task = Task(number=2, lineage="A", objective=objective("dapo"), steps=9, reference=None)
    done = [{"step": 2, "loss": 0.2}, {"step": 3, "loss": 0.3}]
    job = SimpleNamespace(first_step=1, metrics=lambda: list(done))
    steps = stage._Steps(session, task, job)
    steps.log_new()
    done[1:] = [{"step": 3, "loss": 0.7}, {"step": 4, "loss": 0.4}]
    steps.log_new()
    assert [each.get("loss") for each in logs["metrics"].records()] == [None, 0.2, 0.7, 0.4]
    assert [each["total_step"] for each in logs["metrics"].records()] == [1, 2, 3, 4]
    assert len(logs["timing"].records()) == 3
    assert told == [2, 3, 2, 3, 4]


def test_killed_inside_a_stage_it_goes_on_from_trls_checkpoint(data, tmp_path):
    data["ratchet"] = {"protocol": "fixed", "reference": "base", "steps": 20}
    data["evaluation"]["every"] = 20
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(data))
    code = "import json,sys; from owpo.recipes import build_config; from owpo.run import train\n"
    code += "train(build_config(json.load(open(sys.argv[1])), 'test'))"
    run = subprocess.Popen([sys.executable, "-c", code, str(recipe)], env={**os.environ})
    folder = Path(data["run"]["folder"])
    metrics = folder / "host" / "1" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < 5:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = len(metrics.read_text().splitlines())
    assert done < 20
    resume(folder)
    assert [each["step"] for each in lines(folder, "metrics")] == list(range(1, 21))
    assert lines(folder, "evaluations")[-1]["step"] == 20
    host = lines(
        folder / "host" / "1", "metrics"
    )  # steps that were done again are logged as they were done last
    assert [each["loss"] for each in lines(folder, "metrics")] == [each["loss"] for each in host]


def test_what_the_host_says_at_its_end_is_told(data):
    data["trl"]["options"] = {"loss_type": "grpo"}
    with pytest.raises(RunFailed, match="loss_type = 'grpo' is not read by OWPOTrainer; use objective"):
        train(build_config(data, "test"))


def test_a_missing_host_is_named_before_anything_is_written(data, monkeypatch):
    monkeypatch.setattr("owpo.hosts.versions.version", lambda name: "0.1")
    with pytest.raises(InputError, match="made for trl"):
        train(build_config(data, "test"))
    assert not Path(data["run"]["folder"]).exists()
