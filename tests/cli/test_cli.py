"""The command line as a stranger meets it: help, tables, and a sentence instead of a traceback."""

import fcntl
import json
import re
import subprocess
import sys

import pytest
from conftest import as_toml

from owpo.cli import main
from owpo.core.registry import entries
from owpo.estimate.fit import Room


@pytest.fixture
def recipe(tmp_path, recipe_data):
    path = tmp_path / "recipe.toml"
    path.write_text(as_toml(recipe_data), encoding="utf-8")
    return path


def refused(words, capsys) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_the_installed_command_explains_itself():
    done = subprocess.run(
        [sys.executable, "-m", "owpo", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("train", "resume", "check", "objectives"):
        assert re.search(rf"^\s+{command}\s+\S", done.stdout, flags=re.MULTILINE)


def test_objectives_are_listed_with_what_they_need(capsys):
    assert main(["objectives", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [entry.name for entry in entries()]
    assert rows["owpo"]["needs"] == ["reference", "active only", "old logp"]
    assert rows["owpo"]["defaults"]["w_low"] == 0.8
    assert rows["reinforce"]["needs"] == []
    assert main(["objectives"]) == 0
    table = capsys.readouterr().out
    assert all(name[:8] in table for name in rows)


def test_check_prints_what_a_run_takes(recipe, capsys):
    words = ["check", str(recipe), "--prompt-tokens", "2", "--response-tokens", "3", "--time"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["estimate"]
    memory, (seconds,) = told["memory"], told["seconds"]
    update = memory["phases"]["update"]
    assert update["policy"] == update["reference"] == 4 * memory["parameters"]
    assert update["optimiser"] == 8 * memory["parameters"]
    assert memory["peak_bytes"] == max(phase["total"] for phase in memory["phases"].values())
    assert update["total"] == sum(size for name, size in update.items() if name != "total")
    assert seconds["response_tokens"] == 3
    assert seconds["total"] == seconds["sampling"] + seconds["scoring"] + seconds["update"] > 0
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"optimiser +\d+ KiB", printed)
    assert "where responses have 3 tokens" in printed


def test_check_refuses_what_cannot_fit_and_a_length_that_cannot_be(recipe, capsys, monkeypatch):
    assert "between 1 and rollout.max_new_tokens = 4" in refused(
        ["check", recipe, "--response-tokens", "5"], capsys
    )
    assert "--prompt-tokens must be at least 1" in refused(["check", recipe, "--prompt-tokens", "0"], capsys)
    monkeypatch.setattr("owpo.cli.estimate.room_on", lambda device: Room(100_000, "free here"))
    assert "Nothing but a smaller model" in refused(["check", recipe, "--run.memory_check", "warn"], capsys)


def test_check_says_why_there_is_no_estimate(recipe, capsys):
    assert main(["check", str(recipe), "--model.path", "./nowhere"]) == 0
    assert (
        "no estimate of memory and time, because there is no nowhere/config.json" in capsys.readouterr().out
    )


def test_check_prints_the_stages_and_loads_nothing(recipe, capsys):
    words = [
        "--ratchet",
        '{protocol = "leapfrog", stages = 3, steps = 5, first_steps = 2}',
        "--model.path",
        "./nowhere",
    ]
    assert main(["check", str(recipe), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(s["lineage"], s["start"], s["reference"], s["steps"]) for s in told["stages"]] == [
        ("A", "base", "none", 2),
        ("B", "base", "best of stage 1", 5),
        ("A", "best of stage 1", "best of stage 2", 5),
    ]
    assert told["config"]["objective"]["w_high"] == 1.2
    assert main(["check", str(recipe), *words]) == 0
    assert "best of stage 2" in " ".join(capsys.readouterr().out.split())


def test_a_run_from_the_command_line(recipe, tmp_path, capsys):
    assert main(["train", str(recipe), "--ratchet.steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "stage 1: lineage A, from base, by owpo, against base (given and stays), 2 steps" in out
    assert re.search(r"1/2 .*\d", out)
    assert "report set: 1 problems x 2 samples" in out
    assert str(tmp_path / "run") in out
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert "report set" in capsys.readouterr().out
    assert main(["train", str(recipe), "--ratchet.steps", "2", "--resume", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["version"] for row in told["rows"]] == ["base", "stage1-step2"]
    assert told["rows"] == json.loads((tmp_path / "run" / "result.json").read_text())["rows"]
    error = refused(["train", recipe, "--ratchet.steps", "3", "--resume"], capsys)
    assert "ratchet.steps was 2, is now 3" in error


def test_a_run_folder_that_exists_is_not_touched(recipe, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    error = refused(["train", recipe], capsys)
    assert f"owpo resume {tmp_path / 'run'}" in error and "--run.folder" in error
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_folder_in_use_is_refused(recipe, tmp_path, capsys):
    assert main(["train", str(recipe), "--ratchet.steps", "1"]) == 0
    (tmp_path / "run" / "result.json").unlink()
    with (tmp_path / "run" / "run.lock").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "is in use by process" in refused(["resume", tmp_path / "run"], capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.toml"], "no recipe 'nowhere.toml'"),
        (["train", "{recipe}", "--objective.name", "owp"], "Did you mean 'owpo'?"),
        (["train", "{recipe}", "--model.path", "{folder}/modle"], "model"),
        (["train", "{recipe}", "--rollout.max_new_tokens", "63"], "leaves 1 beside the response"),
        (["train", "{recipe}", "--run.device", "cuda"], "no CUDA device"),
        (["train", "{recipe}", "--run.folder", "{recipe}/run"], "cannot be made: "),
        (["resume", "{folder}/nowhere"], "no run folder"),
        (["resume", "{folder}"], "is not a run folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing_behind(recipe, tmp_path, capsys, words, message):
    words = [word.format(recipe=recipe, folder=tmp_path) for word in words]
    error = refused(words, capsys)
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.glob(".run*")) == []


def replace_lines(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "1=", "answer": "1"}', "{broken"], r"problems.train: .*train\.jsonl.*line 2"),
        (['{"prompt": "1="}'], r"answer"),
        (['{"prompt": " ", "answer": "1"}'], r"empty|blank"),
        (
            ['{"id": "a", "prompt": "1=", "answer": "1"}', '{"id": "a", "prompt": "2=", "answer": "2"}'],
            r"'a'",
        ),
        (
            ['{"prompt": "9=", "answer": "9"}'],
            "problems.train and problems.report: 1 of the 1 .* problems.overlap = 'drop'",
        ),
        (
            ['{"id": "odd", "prompt": "x=", "answer": "1"}'],
            r"problem 'odd' of problems\.train: .*cannot encode 'x='",
        ),
    ],
)
def test_problem_files_are_read_before_anything_starts(recipe, tmp_path, capsys, lines, message):
    replace_lines(tmp_path / "train.jsonl", *lines)
    assert re.search(message, refused(["train", recipe], capsys))
    assert not (tmp_path / "run").exists()


def test_policy_and_reference_must_share_a_vocabulary(recipe, tmp_path, tiny_model, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    text = text.replace('"7": 9', '"7": -1').replace('"8": 10', '"8": 9').replace('"7": -1', '"7": 10')
    (other / "tokenizer.json").write_text(text, encoding="utf-8")
    error = refused(["train", recipe, "--ratchet.reference", other], capsys)
    assert "ratchet.reference: policy and reference have different vocabularies" in error
    assert not (tmp_path / "run").exists()


def test_a_bad_run_ends_with_its_reason_and_its_batches(recipe, tmp_path, capsys, monkeypatch):
    """Log-probs that turn NaN: each update is skipped and written down, the third in a row ends the run."""
    from owpo.training import update

    real = update.response_logprobs

    def broken(*args, **kwargs):
        logp, entropy = real(*args, **kwargs)
        return logp * float("nan"), entropy

    monkeypatch.setattr(update, "response_logprobs", broken)
    assert main(["train", str(recipe), "--ratchet.steps", "40", "--objective.name", "opd"]) == 1
    captured = capsys.readouterr()
    assert "3 updates in a row had a non-finite loss or gradient (the last: loss is nan)" in captured.err
    assert "training.learning_rate" in captured.err
    batches = sorted((tmp_path / "run" / "bad_updates").glob("*.safetensors"))
    assert [batch.stem for batch in batches] == [f"stage1-step{step}-update0" for step in range(3)]
    note = json.loads(batches[0].with_suffix(".json").read_text())
    assert note["objective"] == "opd"
    assert len(note["prompts"]) == 64


def test_a_policy_that_broke_ends_the_run_and_keeps_its_checkpoint(recipe, tmp_path, capsys, monkeypatch):
    """Weights that overflow at the next sampling: the logits are what is noticed first."""
    from owpo.training import stage

    def break_the_weights(session, task):
        metrics = real(session, task)
        if session.progress.step == 2:
            session.policy.model.lm_head.weight.data.fill_(float("inf"))
        return metrics

    real = stage.train_step
    monkeypatch.setattr(stage, "train_step", break_the_weights)
    assert main(["train", str(recipe), "--run.checkpoint_every", "1", "--evaluation.every", "50"]) == 1
    error = capsys.readouterr().err
    assert "logits are NaN or infinite" in error
    assert f"The last checkpoint in {tmp_path / 'run' / 'checkpoints'}" in error
