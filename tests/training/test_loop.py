"""The real loop: every objective, the four protocols, and what a step may and may not do."""

import json

import pytest
import torch

from owpo.core.registry import entries
from owpo.policy.load import load_policy
from owpo.recipes import build_config
from owpo.run import train
from owpo.training import stage, update


def run(recipe_data, **sections):
    data = {name: {**value, **sections.get(name, {})} if isinstance(value, dict) else value
            for name, value in recipe_data.items()}  # fmt: skip
    for name in ("ratchet", "objective"):
        if name in sections:
            data[name] = sections[name]
    return train(build_config(data, "test"))


def read(run, name):
    return [json.loads(line) for line in (run.folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_objective_trains_through_the_real_loop(recipe_data, entry, monkeypatch):
    """Several updates a batch; the reference and the old policy are scored exactly where they are needed."""
    scored = []
    real = update.reference_logprobs
    monkeypatch.setattr(
        update, "reference_logprobs", lambda policy, *args: scored.append(policy) or real(policy, *args)
    )
    needs = entry.needs(entry.config_class())
    reference = {"reference": "base"} if needs.reference else {}
    finished = run(
        recipe_data,
        objective={"name": entry.name},
        ratchet={"protocol": "fixed", "steps": 3, **reference},
        training={"updates_per_batch": 2},
        rollout={"dynamic_sampling": False, "group_size": 32},
        evaluation={"every": 10},
    )
    metrics = finished.metrics()
    assert sum(record["updates"] for record in metrics) >= 3
    assert all(record["bad_updates"] == 0 for record in metrics)
    trained = [record for record in metrics if record["trained_tokens"]]
    stats = {name for record in trained for name in record}
    assert {"entropy", "loss", "grad_norm"} <= stats
    assert ("kl_to_reference" in stats) == needs.reference
    scored_policies = {id(policy) for policy in scored}
    # No move measures a distance here: 'base' is the only reference, and the learner's own pass is old_logp's.
    assert len(scored_policies) == (1 + needs.reference if needs.old_logp or needs.reference else 0)
    if needs.zero_advantage:
        assert all(record["trained_tokens"] == record["sampled_tokens"] for record in metrics)


def test_one_update_a_batch_needs_no_pass_for_the_old_policy(recipe_data, monkeypatch):
    def refuse(*_args):
        raise AssertionError("no scoring pass is needed")

    monkeypatch.setattr(update, "reference_logprobs", refuse)
    run(recipe_data, objective={"name": "dapo"}, ratchet={"protocol": "fixed", "steps": 3})


def test_the_first_update_of_a_batch_needs_no_pass_for_the_old_policy_either(recipe_data, monkeypatch):
    """Its own forward pass is the old policy's. And the reference scores active samples alone."""
    scored = []
    real = update.reference_logprobs
    monkeypatch.setattr(
        update,
        "reference_logprobs",
        lambda policy, responses, *args: (
            scored.append((policy, len(responses.prompts))) or real(policy, responses, *args)
        ),
    )
    monkeypatch.setattr(stage, "_measure_move", lambda *_args: None)  # a stage's first step scores more
    finished = run(
        recipe_data,
        ratchet={"protocol": "fixed", "reference": "base", "steps": 6},
        training={"updates_per_batch": 4},
        rollout={"group_size": 8, "max_rounds": 20},
        evaluation={"every": 100},
        run={"watched_problems": 0},
    )
    reference = scored[0][0] if len({id(policy) for policy, _ in scored}) == 1 else None
    rows = {}
    for policy, count in scored:
        rows.setdefault(id(policy), []).append(count)
    assert reference is None and len(rows) == 2
    full = [m for m in finished.metrics() if m["groups_kept"] == 4]
    assert len(full) == 6
    active = [round(32 * m["active_share"]) for m in full]
    assert sorted(rows.values()) == sorted([[24] * 6, active])
    assert active == [32, 28, 20, 16, 8, 4]


def test_learning_happens(recipe_data):
    """Random weights learn to copy the digit they are asked for: chance is below 1 in 5, the end is above 4 in 5."""
    finished = run(
        recipe_data,
        objective={"name": "owpo"},
        ratchet={"protocol": "every_k", "steps": 60, "k": 20},
        rollout={"prompts": 8, "group_size": 8, "max_new_tokens": 2},
        evaluation={"every": 100},
    )
    accuracy = [record["accuracy"] for record in finished.metrics()]
    assert sum(accuracy[:3]) / 3 < 0.2
    assert sum(accuracy[-5:]) / 5 > 0.8


def test_just_after_a_move_the_weight_is_one(recipe_data):
    """every_k: the reference becomes the policy, so delta is exactly 0 until the first update."""
    ratchet = {"protocol": "every_k", "steps": 9, "k": 3}
    finished = run(recipe_data, ratchet=ratchet, rollout={"group_size": 32}, training={"learning_rate": 2e-3})
    lineage, moves = read(finished, "lineage"), read(finished, "moves")
    assert [(c["candidate"], c["parent"], c["step"]) for c in lineage] == [
        ("base", None, 0),
        ("stage1-end", "base", 3),
        ("stage2-end", "stage1-end", 3),
        ("stage3-end", "stage2-end", 3),
    ]
    assert len({c["hash"] for c in lineage}) == 4
    assert [(m["reference"], m["hash"]) for m in moves] == [(c["candidate"], c["hash"]) for c in lineage[:3]]
    shares = {"neutral": 1.0, "accelerated": 0.0, "locked": 0.0, "saturated": 0.0}
    for move in moves:
        assert move["after"] == {"delta": 0.0, "abs_delta": 0.0, "kl": 0.0, **shares}
    assert moves[0]["before"] is None
    for move in moves[1:]:
        assert move["before"]["abs_delta"] > 0.01
        assert move["before"]["kl"] > 0
        assert move["before"]["neutral"] < 0.5
    by_step = {(r["stage"], r["step"]): r for r in finished.metrics()}
    for number in (1, 2, 3):
        first = by_step[number, 1]
        assert (first["accelerated"], first["locked"], first["weight"]) == (0, 0, 1)
    assert by_step[2, 2]["accelerated"] + by_step[2, 2]["locked"] > 0


def test_leapfrog_lineages_keep_their_own_weights(recipe_data):
    ratchet = {"protocol": "leapfrog", "stages": 4, "first_steps": 2, "steps": 2}
    finished = run(recipe_data, ratchet=ratchet, evaluation={"every": 2})
    moves = read(finished, "moves")
    assert [(m["stage"], m["lineage"], m["learner_from"], m["reference"]) for m in moves] == [
        (2, "B", "base", "stage1-step2"),
        (3, "A", "stage1-step2", "stage2-step2"),
        (4, "B", "stage2-step2", "stage3-step2"),
    ]
    # In stage 3 lineage A stands exactly on the reference that B just learned against.
    assert moves[1]["before"]["abs_delta"] == 0
    assert moves[1]["after"]["abs_delta"] > 0


def test_the_best_of_a_stage_becomes_the_reference(recipe_data, monkeypatch):
    """Scores are dictated: step 2 of 3 is the best of stage 1, and a tie goes to the earlier."""
    scores = iter([0.1, 0.5, 0.5, 0.0, 0.0, 0.0])
    real = stage.Session.evaluation

    def dictated(session, groups):
        result = real(session, groups)
        object.__setattr__(result.accuracy, "mean", next(scores))
        return result

    monkeypatch.setattr(stage.Session, "evaluation", dictated)
    finished = run(
        recipe_data,
        ratchet={"protocol": "best_of_stage", "stages": 2, "steps": 3},
        evaluation={"every": 1},
    )
    assert [m["reference"] for m in read(finished, "moves")] == ["base", "stage1-step2"]
    assert [c["candidate"] for c in read(finished, "lineage")] == ["base", "stage1-step2", "stage2-step1"]
    assert [e["best"] for e in read(finished, "evaluations")] == [True, True, False, True, False, False]
    assert [row["version"] for row in finished.rows] == ["base", "stage1-step2", "stage2-step1"]
    assert sorted(p.name for p in (finished.folder / "versions").iterdir()) == [
        "base", "stage1-step2", "stage2-step1",
    ]  # fmt: skip


def test_the_curriculum_falls_from_the_whole_group_to_one(recipe_data):
    ratchet = {"protocol": "fixed", "reference": "base", "steps": 8}
    finished = run(recipe_data, ratchet=ratchet, rollout={"prompts": 16, "group_size": 8})
    assert [round(8 * r["active_share"]) for r in finished.metrics() if r["groups_kept"]] == [
        8,
        7,
        6,
        5,
        4,
        3,
        2,
        1,
    ]


def test_dynamic_sampling_keeps_mixed_groups_and_counts_what_is_missing(recipe_data):
    finished = run(recipe_data, ratchet={"protocol": "fixed", "reference": "base", "steps": 6})
    short = 0
    for record in finished.metrics():
        assert record["groups_kept"] <= 4
        assert record["groups_sampled"] in (4, 8)
        if record["groups_kept"] < 4:
            assert record["groups_sampled"] == 8, "all rounds are used before a batch stays short"
            short += 1
        assert record["short_batches"] == short
    assert short > 0
    for record in read(finished, "rollouts"):
        assert record["advantage"] != 0


def test_a_batch_in_which_nothing_can_be_learned_is_no_update(recipe_data):
    """An answer that no response of four characters can be: every group is all wrong."""
    path = recipe_data["problems"]["train"]["path"]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write('{"prompt": "1=", "answer": "12345"}\n')
    finished = run(recipe_data, ratchet={"protocol": "fixed", "reference": "base", "steps": 2})
    metrics = finished.metrics()
    assert [(r["accuracy"], r["groups_kept"], r["updates"], r["short_batches"]) for r in metrics] == [
        (0, 0, 0, 1),
        (0, 0, 0, 2),
    ]
    assert read(finished, "moves")[0]["after"] is None


def test_overlong_responses_cost_reward(recipe_data):
    """Right answers of different lengths get different advantages only where the cache is on."""
    settings = {"ratchet": {"protocol": "fixed", "steps": 3}, "objective": {"name": "dr_grpo"}}
    on = run(
        recipe_data, run={"folder": recipe_data["run"]["folder"] + "-on", "rollouts_per_step": 64},
        rollout={"overlong_cache": 3}, **settings,
    )  # fmt: skip
    off = run(recipe_data, run={"rollouts_per_step": 64}, **settings)

    def advantages_of_wrong(finished):
        return {
            (r["step"], r["problem"], round(r["advantage"], 6))
            for r in read(finished, "rollouts")
            if r["verdict"] != "correct" and r["step"] == 1
        }

    problems = {r["problem"] for r in read(off, "rollouts") if r["step"] == 1}
    assert len(advantages_of_wrong(off)) == len(problems)  # one value a group
    assert len(advantages_of_wrong(on)) > len(problems)


def test_bfloat16_computes_but_keeps_float32_weights(recipe_data):
    finished = run(recipe_data, run={"dtype": "bfloat16"})
    last = load_policy(str(finished.version_folder(finished.rows[-1]["version"])))
    assert {p.dtype for p in last.model.parameters()} == {torch.float32}
    after = read(finished, "moves")[0]["after"]
    assert {name: after[name] for name in ("delta", "abs_delta", "kl")} == {
        "delta": 0.0,
        "abs_delta": 0.0,
        "kl": 0.0,
    }  # one path for policy and reference, also in bf16


def test_the_same_seed_gives_the_same_run_and_another_does_not(recipe_data):
    folder = recipe_data["run"]["folder"]
    one = run(recipe_data).metrics()
    again = run(recipe_data, run={"folder": folder + "-again"}).metrics()
    other = train(
        build_config(
            {**recipe_data, "seed": 2, "run": {**recipe_data["run"], "folder": folder + "-other"}}, ""
        )
    )
    assert again == one
    assert other.metrics() != one


def test_the_seconds_of_a_step_are_split(recipe_data, tmp_path):
    """The verifier's are not the sampler's; the processor's do not count its sleep."""
    grader = tmp_path / "slow.py"
    grader.write_text("import time\n\ndef grade(response, answer):\n    time.sleep(0.02)\n    return True\n")
    recipe_data["verifier"] = {"kind": "function", "path": f"{grader}:grade", "workers": 1}
    finished = run(
        recipe_data,
        ratchet={"protocol": "fixed", "reference": "base", "steps": 1},
        rollout={"prompts": 2, "group_size": 8, "dynamic_sampling": False},
        evaluation={"every": 10, "samples": 1, "report_samples": 1},
    )
    (timing,) = read(finished, "timing")
    phases = ("sampling", "verifying", "reference", "updating")
    assert timing["verifying"] > 16 * 0.02 > timing["verifying_cpu"]
    assert sum(timing[name] for name in phases) <= timing["seconds"]
    assert sum(timing[f"{name}_cpu"] for name in phases) <= timing["cpu_seconds"]
    (metrics,) = finished.metrics()
    assert timing["tokens_per_second"] == pytest.approx(metrics["sampled_tokens"] / timing["seconds"])
