"""Token records hold what the update saw and what the policy and its reference say, and change nothing else."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from owpo.core.registry import objective
from owpo.policy.load import load_policy
from owpo.policy.responses import Responses
from owpo.recipes import build_config
from owpo.run import train
from owpo.runs.folder import RunFolder
from owpo.training.tokens import recorded_rows
from owpo.training.update import TrainingRows

LEAPFROG = {"protocol": "leapfrog", "stages": 2, "first_steps": 6, "steps": 6}


def run(
    recipe_data, name="run", token_rollouts=6, token_every=2, watched_problems=2, **sections
) -> RunFolder:
    settings = {
        "token_rollouts": token_rollouts,
        "token_every": token_every,
        "watched_problems": watched_problems,
    }
    place = {"folder": f"{recipe_data['run']['folder']}-{name}"}
    data = {**recipe_data, **sections, "run": {**recipe_data["run"], **place, **settings}}
    return RunFolder(train(build_config(data, "test")).folder)


def tokens(folder: RunFolder, kind: str) -> list[dict]:
    return [record for record in folder.logs["tokens"].records() if record["kind"] == kind]


def plain_logprobs(folder: RunFolder, version: str, record: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies of a record's tokens by transformers alone."""
    path = str(folder.versions.folder / version)
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = load_policy(path, device="cpu", dtype="float32").tokenizer
    prompt = tokenizer(record["prompt"], add_special_tokens=False)["input_ids"]
    response = tokenizer.convert_tokens_to_ids(record["pieces"])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    logp = logits.double().log_softmax(dim=-1)
    return logp[range(len(response)), response], -(logp.exp() * logp).sum(dim=-1)


def close(values):
    return pytest.approx(values.tolist() if isinstance(values, torch.Tensor) else values, abs=3e-5)


@pytest.fixture
def leapfrog(recipe_data) -> RunFolder:
    return run(recipe_data, ratchet=LEAPFROG)


def test_trained_responses_are_recorded_as_the_update_saw_them(leapfrog):
    first = [record for record in tokens(leapfrog, "training") if (record["stage"], record["step"]) == (2, 1)]
    assert first
    for record in first:  # the stage begins anew from the base
        logp, entropy = plain_logprobs(leapfrog, "base", record)
        ref_logp, _ = plain_logprobs(leapfrog, record["reference"], record)
        assert record["logp"] == close(logp)
        assert record["entropy"] == close(entropy)
        assert record["ref_logp"] == close(ref_logp)


def test_deviation_and_weight_are_the_methods(recipe_data):
    folder = run(recipe_data, token_rollouts=1000, ratchet=LEAPFROG)
    records = [record for record in tokens(folder, "training") if record["stage"] == 2]
    assert {record["active"] for record in records} == {True, False}
    for record in records:
        if not record["active"]:
            assert set(record["ref_logp"]) == set(record["delta"]) == {None}
            assert set(record["weight"]) == {1.0}
            continue
        logp, ref_logp = torch.tensor(record["logp"]), torch.tensor(record["ref_logp"])
        delta = (1 if record["advantage"] > 0 else -1) * (logp - ref_logp)
        assert record["delta"] == close(delta)
        assert record["weight"] == close(torch.exp(-delta).clamp(0.8, 1.2))


def test_right_and_wrong_come_in_turn_at_the_steps_asked_for(leapfrog):
    records = tokens(leapfrog, "training")
    assert {record["step"] for record in records} == {1, 3, 5}
    by_step: dict = {}
    for record in records:
        by_step.setdefault((record["stage"], record["step"]), []).append(record)
    for mine in by_step.values():
        assert len(mine) <= 6
        assert {record["verdict"] == "correct" for record in mine} == {True, False}
        assert all((record["verdict"] == "correct") == (record["advantage"] > 0) for record in mine)


def test_watched_problems_are_scored_by_the_policy_as_it_stands(leapfrog):
    records = tokens(leapfrog, "watched")
    assert [(r["stage"], r["step"]) for r in records[::2]] == [
        (stage, step) for stage in (1, 2) for step in (0, 2, 4, 6)
    ]
    assert [record["problem"] for record in records] == ["selection-7", "selection-8"] * 8
    best = {record["stage"]: record for record in leapfrog.logs["evaluations"].records() if record["best"]}
    for record in records:
        at_best = record["step"] == best[record["stage"]]["step"]
        version = "base" if record["step"] == 0 else f"stage{record['stage']}-step{record['step']}"
        if record["step"] > 0 and not at_best:
            continue
        logp, entropy = plain_logprobs(leapfrog, version, record)
        assert record["logp"] == close(logp)
        assert record["entropy"] == close(entropy)
        assert record["advantage"] == (1 if record["verdict"] == "correct" else -1)
        if record["stage"] == 1:
            assert record["reference"] is None
            assert "ref_logp" not in record
        else:
            ref_logp, _ = plain_logprobs(leapfrog, record["reference"], record)
            delta = record["advantage"] * (logp - ref_logp)
            assert record["delta"] == close(delta)
            assert record["weight"] == close(torch.exp(-delta).clamp(0.8, 1.2))


def test_a_watched_problem_is_answered_as_the_evaluation_answers_it(recipe_data):
    """At the start of a stage the watched problems alone are sampled: the same rows as of the whole set."""
    few = run(recipe_data, "few", watched_problems=1)
    both = run(recipe_data, "both", watched_problems=2)
    assert tokens(few, "watched") == tokens(both, "watched")[::2]


def test_recording_changes_nothing_else(recipe_data):
    on = run(recipe_data, "on", token_every=1, ratchet=LEAPFROG)
    off = run(recipe_data, "off", token_rollouts=0, watched_problems=0, ratchet=LEAPFROG)
    assert not (off.path / "tokens.jsonl.gz").exists() or tokens(off, "watched") == []
    for log in ("metrics", "rollouts", "evaluations", "lineage", "moves"):
        assert on.logs[log].records() == off.logs[log].records()
    assert on.result()["rows"] == off.result()["rows"]


@pytest.mark.parametrize(
    "name", ["mopd", "grpo", "shuffled", "opd", "owpo_narrowed", "owpo_while_ahead", "owpo_bounded"]
)
def test_every_kind_of_objective_is_recorded(recipe_data, name):
    folder = run(recipe_data, name, objective={"name": name})
    for record in [*tokens(folder, "training"), *tokens(folder, "watched")]:
        lengths = {len(record[key]) for key in ("pieces", "logp", "ref_logp", "entropy")}
        assert lengths == {len(record["pieces"])}


def rows(advantage, active, group_size):
    count = len(advantage)
    mask = torch.ones(count, 2, dtype=torch.bool)
    return TrainingRows(
        responses=Responses(
            [[1]] * count, torch.zeros(count, 2, dtype=torch.int64), mask, mask * 0.0, mask[:, 0]
        ),
        group=torch.arange(count) // group_size,
        advantage=torch.tensor(advantage),
        active=torch.tensor(active),
    )


def test_active_responses_come_first_and_those_without_a_gradient_never():
    advantage = [0.5, -0.5, 0.0, 0.0, 0.7, -0.2, 0.9, -0.1]
    active = [False, True, True, True, True, False, False, True]
    marked = recorded_rows(rows(advantage, active, 2), objective("owpo"), 4).recorded
    # Right: 4 is active, then 0 and 6; wrong: 1 and 7 are active.
    assert (marked >= 0).nonzero().flatten().tolist() == [0, 1, 4, 7]
    assert marked[marked >= 0].tolist() == [0, 1, 4, 7]
    everything = recorded_rows(rows(advantage, active, 2), objective("owpo"), 100).recorded
    assert (everything >= 0).nonzero().flatten().tolist() == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize("text", ["café ≤ ½", "日本語 🙂👩‍🚀 end", "plain\nlines\t", "\u0301 é"])
def test_pieces_joined_are_the_text(byte_model, text):
    policy = load_policy(str(byte_model), device="cpu", dtype="float32")
    ids = policy.encode(text, special_tokens=False)
    pieces = policy.pieces([*ids, policy.eos_ids[0]])
    assert len(pieces) == len(ids) + 1
    assert "".join(pieces) == f"{text}<|end|>"
    assert pieces[-1] == "<|end|>"


def test_a_character_stands_at_the_last_of_its_tokens(byte_model):
    policy = load_policy(str(byte_model), device="cpu", dtype="float32")
    assert policy.pieces(policy.encode("aé🙂", special_tokens=False)) == ["a", "", "é", "", "", "", "🙂"]
    assert policy.pieces(policy.encode("a🙂", special_tokens=False)[:-1]) == ["a", "", "", ""]
