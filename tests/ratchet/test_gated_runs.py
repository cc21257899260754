"""Runs in which candidates are held against the reference: what moves, what stays, and what the learner does."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from conftest import write_problems
from safetensors.torch import load_file

from owpo.cli import main
from owpo.errors import InputError, Interrupted
from owpo.ratchet import candidate as proposals
from owpo.ratchet import evolve as evolving
from owpo.ratchet.gate import Decision
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.runs.checkpoints import CheckpointStore
from owpo.training.display import Display
from owpo.training.session import Session

BEST_OF_STAGE = {"protocol": "best_of_stage", "stages": 3, "steps": 3}
LEAPFROG = {"protocol": "leapfrog", "stages": 5, "first_steps": 2, "steps": 2}
EVERY_K = {"protocol": "every_k", "steps": 6, "k": 2}


@pytest.fixture
def gated(recipe_data, tmp_path) -> dict:
    """The tiny recipe with 20 selection problems, "3+7=" -> "7", and a gate."""
    lines = [{"prompt": f"{a}+{b}=", "answer": str(b)} for a in "89" for b in "0123456789"]
    write_problems(tmp_path / "selection.jsonl", lines)
    recipe_data["evaluation"] |= {"every": 1, "samples": 4}
    recipe_data["ratchet"] = {**BEST_OF_STAGE, "gate": {}}
    return recipe_data


def dictate(monkeypatch, *accepted: bool) -> None:
    """The gate's decisions, in order; evidence is gathered as ever."""
    answers = iter(accepted)

    def decide(evidence, config, seed):
        refusals = [] if next(answers) else ["dictated"]
        return Decision(refusals=refusals, gain=0.0, p_value=1.0, evidence=evidence, config=config)

    monkeypatch.setattr(proposals, "decide", decide)


def run(data, **changes):
    return train(build_config({**data, **changes}, "test"))


def read(folder: Path, log: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{log}.jsonl").read_text().splitlines()]


def newest(folder: Path):
    return CheckpointStore(folder / "checkpoints").load_newest()


def references(folder: Path) -> list[str]:
    return [move["reference"] for move in read(folder, "moves")]


class Spoil(Display):
    """What a broken machine, a wrong reward, a learning rate too high would do: from a stage on, weights are noise."""

    def __init__(self, monkeypatch, number: int) -> None:
        real = evolving.train_stage

        def train_stage(session, task):
            if task.number == number and session.progress.step == 0:
                generator = torch.Generator().manual_seed(0)
                for parameter in session.policy.model.parameters():
                    parameter.data.normal_(generator=generator)
            real(session, task)

        monkeypatch.setattr(evolving, "train_stage", train_stage)
        self.said: list[dict] = []

    def candidate(self, record):
        self.said.append(record)


def test_a_bad_second_stage_ends_with_the_first_reference_in_place(gated, tmp_path, monkeypatch, capsys):
    """Stage 1 learns to copy a digit, stage 2 is noise."""
    lines = [{"id": f"{set_}{d}", "prompt": f"{d}=", "answer": d} for set_ in "ab" for d in "0123456789"]
    write_problems(tmp_path / "train.jsonl", lines)
    write_problems(tmp_path / "selection.jsonl", lines)
    gated["problems"]["overlap"] = "report"
    gated["rollout"] |= {"prompts": 8, "group_size": 8, "max_new_tokens": 2}
    gated["run"]["checkpoint_every"] = gated["evaluation"]["every"] = 20
    gate = {"max_kl": "off", "max_truncated_rise": "off"}  # it learns much, and not to end its responses
    gated["ratchet"] = {"protocol": "best_of_stage", "stages": 2, "steps": 40, "gate": gate}
    display = Spoil(monkeypatch, 2)
    finished = train(build_config(gated, "test"), display=display)
    first = read(finished.folder, "lineage")[1]
    assert first["accepted"] and first["gate"]["p_value"] < 0.05, first
    assert [(r["candidate"][:6], r["accepted"]) for r in display.said] == [
        ("stage1", True),
        ("stage2", False),
    ]
    assert display.said[1]["in_force"] == first["candidate"]
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["in_force"] == first["candidate"]
    capsys.readouterr()
    assert main(["ratchet", str(finished.folder)]) == 0
    out = capsys.readouterr().out
    assert "refused against" in out and out.rstrip().endswith(f"reference in force: {first['candidate']}")
    assert main(["resume", str(finished.folder)]) == 0
    assert f"reference in place at the end: {first['candidate']}; refused: stage2" in capsys.readouterr().out


def test_a_refused_candidate_leaves_the_reference_and_the_learner_trains_on(gated, monkeypatch):
    dictate(monkeypatch, True, False, True)
    finished = run(gated)
    lineage = read(finished.folder, "lineage")
    one, two, three = (record["candidate"] for record in lineage[1:])
    assert references(finished.folder) == ["base", one, one]
    assert [record["in_force"] for record in lineage] == ["base", one, one, three]
    assert [record["held_against"] for record in lineage[1:]] == ["base", one, one]
    assert lineage[2]["reasons"] == ["dictated"]
    assert newest(finished.folder).progress.references == ["base", one, three]
    assert newest(finished.folder).progress.updates > 6  # one optimiser throughout
    moves = read(finished.folder, "moves")
    assert moves[1]["before"] is not None
    assert moves[2]["before"] is None  # nothing moved
    assert two != three


def test_a_refused_learner_rolls_back_to_what_passed(gated, monkeypatch):
    gated["ratchet"]["gate"] = {"on_refusal": "roll_back"}
    dictate(monkeypatch, True, False, False)
    finished = run(gated)
    one = read(finished.folder, "lineage")[1]["candidate"]
    third = read(finished.folder, "moves")[2]
    assert third["learner_from"] == third["reference"] == one
    assert third["after"]["abs_delta"] == 0  # it stands on its reference
    assert newest(finished.folder).progress.updates <= 3  # stage 3's alone: a new optimiser


def test_with_nothing_passed_the_learner_rolls_back_to_the_base(gated, monkeypatch):
    gated["ratchet"]["gate"] = {"on_refusal": "roll_back"}
    dictate(monkeypatch, False, False, False)
    finished = run(gated)
    assert [move["learner_from"] for move in read(finished.folder, "moves")] == ["base"] * 3
    assert references(finished.folder) == ["base"] * 3


def test_leapfrog_rolls_back_the_lineage_that_was_refused(gated, monkeypatch):
    """A: stages 1, 3, 5; B: 2, 4. B's stage 2 is refused: stage 3 keeps A's best, and B begins stage 4 at the base."""
    gated["ratchet"] = {**LEAPFROG, "gate": {"on_refusal": "roll_back"}}
    dictate(monkeypatch, True, False, True, False, True)
    finished = run(gated)
    best = {record["stage"]: record["candidate"] for record in read(finished.folder, "lineage")}
    told = [
        (move["stage"], move["learner_from"], move["reference"]) for move in read(finished.folder, "moves")
    ]
    assert told == [
        (2, "base", best[1]),
        (3, best[1], best[1]),
        (4, "base", best[3]),
        (5, best[3], best[3]),
    ]


@pytest.mark.parametrize(
    ("gate", "updates"),
    [({}, 6), ({"on_move": "restart_optimizer"}, 4), ({"on_refusal": "restart_optimizer"}, 2)],
)
def test_every_k_proposes_its_last_weights_and_may_restart_the_optimizer(gated, monkeypatch, gate, updates):
    """Stage 1 passes, stage 2 is refused; of 6 updates the optimiser has seen those since it was new."""
    gated["ratchet"] = {**EVERY_K, "gate": gate}
    gated["rollout"] |= {"dynamic_sampling": False, "group_size": 64}  # every step has an update
    dictate(monkeypatch, True, False, True)
    finished = run(gated)
    assert [r["candidate"] for r in read(finished.folder, "lineage")] == [
        "base", "stage1-end", "stage2-end", "stage3-end",
    ]  # fmt: skip
    assert references(finished.folder) == ["base", "stage1-end", "stage1-end"]
    assert all(r["gate"]["checkpoints"] == 1 for r in read(finished.folder, "lineage")[1:])
    assert newest(finished.folder).progress.updates == updates
    end = load_file(finished.version_folder("stage3-end") / "model.safetensors")
    weights = newest(finished.folder).weights
    assert all(torch.equal(end[name], weights[name]) for name in end)


def test_old_references_are_kept_as_many_as_stated(gated, monkeypatch):
    gated["ratchet"] = {"protocol": "every_k", "steps": 5, "k": 1, "keep_references": 2}
    gated["run"]["keep_checkpoints"] = 1
    finished = run(gated)
    assert newest(finished.folder).progress.references == ["base", "stage4-end", "stage5-end"]
    versions = {path.name for path in (finished.folder / "versions").iterdir()}
    assert versions == {"base", "stage4-step1", "stage4-end", "stage5-step1", "stage5-end"}
    assert [row["version"] for row in finished.rows] == ["base", "stage4-step1", "stage4-end", "stage5-step1"]
    assert len(read(finished.folder, "lineage")) == 6  # what was is not forgotten


def test_drift_is_what_the_two_policies_say_of_the_candidates_responses(gated):
    """every_k without learning: no drift. With it: from the reference less than from the first, once it has moved."""
    gated["ratchet"] = EVERY_K
    still = run(gated, training={"learning_rate": 1e-12, "warmup_updates": 0, "weight_decay": 0.0})
    for record in read(still.folder, "lineage")[1:]:
        assert record["drift"]["first"]["abs_delta"] < 1e-6
    folder = gated["run"]["folder"] + "-moving"
    moving = read(run(gated, run={**gated["run"], "folder": folder}).folder, "lineage")[1:]
    assert moving[0]["drift"]["reference"] == moving[0]["drift"]["first"]
    for record in moving:
        assert record["gate"] is None
        assert record["drift"]["reference"]["kl"] > 0
    assert moving[2]["drift"]["first"]["kl"] > moving[2]["drift"]["reference"]["kl"]


@pytest.mark.parametrize("protocol", [BEST_OF_STAGE, LEAPFROG, EVERY_K], ids=lambda p: p["protocol"])
def test_a_stop_inside_the_gate_changes_nothing(gated, monkeypatch, protocol):
    """A stop comes at every batch of responses that a proposal samples, one after the other."""
    gated["ratchet"] = {**protocol, "gate": {"level": 0.5, "on_refusal": "roll_back"}}
    gated["rollout"]["batch_size"] = 40
    whole = run(gated)
    real, places = Session._answer_selection, set()

    def stopping(session, sampler, sampling):
        place = (session.progress.total_steps, sampling.seed)
        answers = real(session, sampler, sampling)
        if sampler.policy is not session.policy and place not in places:
            places.add(place)
            raise Interrupted("test")
        return answers

    monkeypatch.setattr(Session, "_answer_selection", stopping)
    gated["run"] = {**gated["run"], "folder": gated["run"]["folder"] + "-parts"}
    parts = Path(gated["run"]["folder"])
    finished = None
    while finished is None:
        with contextlib.suppress(Interrupted):
            finished = resume(parts) if parts.exists() else run(gated)
    assert len(places) == 2 * len(read(whole.folder, "lineage")[1:])
    for log in ("metrics", "evaluations", "lineage", "moves", "rollouts"):
        assert read(parts, log) == read(whole.folder, log), log
    assert newest(parts).progress == newest(whole.folder).progress


def test_a_gate_that_nothing_could_pass_is_refused_before_the_run(gated, tmp_path):
    write_problems(tmp_path / "selection.jsonl", [{"prompt": f"8+{b}=", "answer": b} for b in "0123"])
    with pytest.raises(
        InputError, match="4 problems, and no test on fewer than 5 can reach ratchet.gate.level"
    ):
        run(gated)
    assert not Path(gated["run"]["folder"]).exists()


@pytest.mark.parametrize(
    ("ratchet", "message"),
    [
        ({**LEAPFROG, "gate": {"on_move": "restart_optimizer"}}, "every stage starts from a version with a new opt"),
        ({**BEST_OF_STAGE, "continue_from": "best", "gate": {"on_refusal": "restart_optimizer"}}, "new optimiser"),
        ({**EVERY_K, "gate": {"level": 0.0}}, "ratchet.gate.level"),
        ({**EVERY_K, "gate": {"levl": 0.1}}, "level"),
        ({**EVERY_K, "gate": {"max_tail_growth": 0.5}}, "ratchet.gate.max_tail_growth"),
        ({**EVERY_K, "keep_references": 1}, "ratchet.keep_references"),
        ({"protocol": "fixed", "steps": 2, "reference": "base", "gate": {}}, "ratchet.gate is unknown"),
        ({"protocol": "gated", "steps": 2}, "ratchet.gate"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(gated, ratchet, message):
    with pytest.raises(InputError, match=message):
        build_config({**gated, "ratchet": ratchet}, "test")


def test_the_ratchet_command(gated, monkeypatch, capsys, tmp_path):
    dictate(monkeypatch, True, False, True)
    folder = str(run(gated).folder)
    capsys.readouterr()
    assert main(["ratchet", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read(Path(folder), "lineage")
    assert main(["ratchet", folder]) == 0
    out = capsys.readouterr().out
    assert out.count("accepted") == 3
    assert out.count("refused against") == 1
    assert max(len(line) for line in out.splitlines()) <= 80
    assert main(["ratchet", str(tmp_path / "nothing")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
