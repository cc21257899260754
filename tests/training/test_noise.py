"""A verifier that errs on purpose: what training is told, and that nothing else is."""

import json
from pathlib import Path

import pytest
import torch

from owpo.config import ExactVerifier, FunctionVerifier
from owpo.core.advantage import estimate_advantage
from owpo.errors import Interrupted
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.stop import StopSignal
from owpo.training.display import Display
from owpo.training.noise import rewarded

STANDING_STILL = 1e-30  # a learning rate that moves no float32 weight: every model of the run is the base


def noisy(flip_correct, flip_wrong):
    return ExactVerifier(kind="exact", flip_correct=flip_correct, flip_wrong=flip_wrong)


def run(data, folder, *, verifier=None, display=None, **sections):
    data = {
        name: {**value, **sections.get(name, {})} if isinstance(value, dict) else value
        for name, value in data.items()
    }
    data["run"] = {**data["run"], "folder": str(folder), "rollouts_per_step": 1000}
    data["verifier"] = {"kind": "exact", **(verifier or {})}
    return train(build_config(data, "test"), display=display)


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_verdicts_turn_at_their_own_rates():
    correct_PG = torch.arange(100_000).view(1000, 100) % 4 == 0
    flipped_PG = rewarded(correct_PG, noisy(0.1, 0.3), seed=5) ^ correct_PG
    for verdict_PG, rate in ((correct_PG, 0.1), (~correct_PG, 0.3)):
        count = int(verdict_PG.sum())
        standard_error = (rate * (1 - rate) / count) ** 0.5
        assert flipped_PG[verdict_PG].double().mean().item() == pytest.approx(rate, abs=4 * standard_error)


def test_the_number_that_decides_belongs_to_the_seed_and_the_place_alone():
    right, wrong = torch.ones(20, 8, dtype=torch.bool), torch.zeros(20, 8, dtype=torch.bool)
    flipped = rewarded(right, noisy(0.3, 0.3), seed=1) ^ right
    assert torch.equal(rewarded(wrong, noisy(0.3, 0.3), seed=1) ^ wrong, flipped)
    fewer = rewarded(right, noisy(0.1, 0.0), seed=1) ^ right
    assert 0 < fewer.sum() < flipped.sum() and not (fewer & ~flipped).any()
    assert not torch.equal(rewarded(right, noisy(0.3, 0.3), seed=2) ^ right, flipped)


@pytest.mark.parametrize(
    ("flip_correct", "flip_wrong", "expected"),
    [(0.0, 0.0, [1, 0]), (1.0, 0.0, [0, 0]), (0.0, 1.0, [1, 1]), (1.0, 1.0, [0, 1])],
)
def test_certain_flips_by_hand(flip_correct, flip_wrong, expected):
    correct_PG = torch.tensor([[True, False]])
    told_PG = rewarded(correct_PG, noisy(flip_correct, flip_wrong), seed=0)
    assert told_PG.dtype == torch.bool
    assert told_PG.long().tolist() == [expected]


def test_a_grader_knows_nothing_of_the_noise():
    settings = {"kind": "function", "path": "module:function"}
    clean, noisy_one = FunctionVerifier(**settings), FunctionVerifier(**settings, flip_wrong=0.2)
    assert noisy_one.spec() == clean.spec() == settings
    assert noisy_one.limits() == clean.limits()


def test_without_noise_nothing_is_said_of_it(recipe_data, tmp_path):
    finished = run(recipe_data, tmp_path / "run")
    assert not {"rewarded_accuracy", "flipped_share"} & set(finished.metrics()[0])
    assert all("rewarded" not in record for record in read(finished.folder, "rollouts"))


class Listening(Display):
    def __init__(self):
        self.heard = []

    def warn(self, text):
        self.heard.append(text)


def test_a_noisy_run_says_so_and_is_recorded(recipe_data, tmp_path):
    display = Listening()
    finished = run(recipe_data, tmp_path / "run", verifier={"flip_correct": 0.25}, display=display)
    told = [text for text in display.heard if "errs on purpose" in text]
    assert len(told) == 1 and "25.0% of the correct and 0.0% of the other" in told[0]
    assert "sum to 1" not in told[0]
    recorded = json.loads((finished.folder / "config.json").read_text())["verifier"]
    assert (recorded["flip_correct"], recorded["flip_wrong"]) == (0.25, 0.0)

    display = Listening()
    run(recipe_data, tmp_path / "against", verifier={"flip_correct": 0.5, "flip_wrong": 0.6}, display=display)
    assert any("sum to 1 or more, so that being right is not rewarded" in text for text in display.heard)


def test_only_training_is_told_the_noise(recipe_data, tmp_path):
    """Weights that stand still: all that is sampled is the clean run's, so every difference is the noise's."""
    still = {"training": {"learning_rate": STANDING_STILL}, "rollout": {"dynamic_sampling": False}}
    clean = run(recipe_data, tmp_path / "clean", **still)
    other = run(recipe_data, tmp_path / "noisy", verifier={"flip_correct": 0.4, "flip_wrong": 0.2}, **still)
    assert other.rows == clean.rows
    assert read(other.folder, "evaluations") == read(clean.folder, "evaluations")
    assert [m["accuracy"] for m in other.metrics()] == [m["accuracy"] for m in clean.metrics()]

    told = read(other.folder, "rollouts")
    truth = read(clean.folder, "rollouts")
    assert [record["verdict"] for record in told] == [record["verdict"] for record in truth]
    for metrics in other.metrics():
        step = [record for record in told if record["step"] == metrics["step"]]
        assert len(step) == 4 * 16
        turned = [record["rewarded"] != (record["verdict"] == "correct") for record in step]
        assert metrics["flipped_share"] == sum(turned) / 64 > 0
        assert metrics["rewarded_accuracy"] == sum(record["rewarded"] for record in step) / 64
        groups = [[record["rewarded"] for record in step[p::4]] for p in range(4)]
        assert metrics["all_right_share"] == sum(all(group) for group in groups) / 4
        assert metrics["all_wrong_share"] == sum(not any(group) for group in groups) / 4
        advantage_PG = estimate_advantage(torch.tensor(groups, dtype=torch.float64), "group_std")
        logged = [[record["advantage"] for record in step[p::4]] for p in range(4)]
        assert torch.allclose(torch.tensor(logged, dtype=torch.float64), advantage_PG)


def test_dynamic_sampling_keeps_what_looks_mixed(recipe_data, tmp_path):
    """An answer that no response of four characters can be: without noise no group is ever kept."""
    path = Path(recipe_data["problems"]["train"]["path"])
    path.write_text('{"prompt": "1=", "answer": "12345"}\n', encoding="utf-8")
    finished = run(recipe_data, tmp_path / "run", verifier={"flip_wrong": 0.5})
    for metrics in finished.metrics():
        assert (metrics["accuracy"], metrics["groups_kept"], metrics["groups_sampled"]) == (0, 4, 4)
        assert metrics["all_wrong_share"] == 0
        assert metrics["updates"] == 1
    assert {record["verdict"] for record in read(finished.folder, "rollouts")} <= {"wrong", "unparseable"}


def test_the_same_places_turn_whatever_the_batch_size(recipe_data, tmp_path):
    def turned(batch_size):
        finished = run(
            recipe_data,
            tmp_path / f"by-{batch_size}",
            verifier={"flip_correct": 0.3, "flip_wrong": 0.3},
            rollout={"batch_size": batch_size, "dynamic_sampling": False},
        )
        records = read(finished.folder, "rollouts")
        return [record["rewarded"] != (record["verdict"] == "correct") for record in records]

    flips = turned(64)
    assert 0 < sum(flips) < len(flips) == 4 * 64
    assert turned(7) == flips


def test_a_noisy_run_resumes_exactly(recipe_data, tmp_path, monkeypatch):
    noise = {"flip_correct": 0.2, "flip_wrong": 0.2}
    whole = run(recipe_data, tmp_path / "whole", verifier=noise)
    real_check = StopSignal.check

    def check(self, *args):
        metrics = tmp_path / "parts" / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 3:
            self.received = "SIGTERM"
        real_check(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopSignal, "check", check)
        run(recipe_data, tmp_path / "parts", verifier=noise)
    parts = resume(tmp_path / "parts")
    assert parts.rows == whole.rows
    for name in ("metrics", "rollouts", "evaluations"):
        assert read(parts.folder, name) == read(whole.folder, name)
