"""A run samples from the weights as they stand, through whatever engine its recipe names."""

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_problems
from engine_builders import TwinEngine

from owpo.engines.engine import LocalEngine, LocalSampler
from owpo.engines.vllm_engine import check_installed
from owpo.errors import InputError, RunFailed
from owpo.policy import copy_weights, load_policy
from owpo.policy.sampler import sample_batches
from owpo.recipes import build_config
from owpo.run import train
from owpo.runs.folder import RunFolder
from owpo.training.engine import open_engine

GATED = {"protocol": "every_k", "steps": 4, "k": 2, "gate": {}}


def engine_of_runs(monkeypatch, take=copy_weights) -> list[TwinEngine]:
    """Every run from here on samples from a second policy; the list has each run's engine."""
    engines = []

    class Open:
        def __init__(self, _config, policy, folder, longest_prompt):
            assert (folder / "config.json").is_file()
            assert longest_prompt() in (2, 3)
            engines.append(TwinEngine(policy, take))

        def __enter__(self):
            return engines[-1]

        def __exit__(self, *_):
            engines[-1].take = None

    monkeypatch.setattr("owpo.run.open_engine", Open)
    return engines


def test_the_local_engine_is_our_own_decoding_loop(tiny_model):
    policy = load_policy(str(tiny_model))
    settings = {
        "group_size": 3, "max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9, "seed": 5, "batch_size": 4,
        "stop": ("1",), "skip": 1,
    }  # fmt: skip
    sampler = LocalEngine().sampler(policy, "the base")
    assert isinstance(sampler, LocalSampler) and sampler.policy is policy
    ours = list(sampler.batches([[3, 4], [5]], **settings))
    expected = list(sample_batches(policy, [[3, 4], [5]], **settings))
    assert len(ours) == len(expected) == 1
    assert torch.equal(ours[0].tokens, expected[0].tokens)
    assert torch.equal(ours[0].sampler_logp, expected[0].sampler_logp)


def test_an_engine_with_weights_of_its_own_gives_the_run_that_the_policy_gives(
    recipe_data, tmp_path, monkeypatch
):
    """Training, evaluations, drift, gate and closing table: had one of them not asked anew, a number would differ."""
    lines = [{"prompt": f"{a}{b}=", "answer": str(b)} for a in "89" for b in "0123456789"]
    write_problems(tmp_path / "selection.jsonl", lines)
    local = train(build_config({**recipe_data, "ratchet": GATED}, "test"))
    engines = engine_of_runs(monkeypatch)
    recipe_data["run"]["folder"] = str(tmp_path / "other")
    other = train(build_config({**recipe_data, "ratchet": GATED}, "test"))
    assert other.rows == local.rows
    assert other.metrics() == local.metrics()
    for log in ("evaluations", "lineage", "moves", "rollouts"):
        assert RunFolder(other.folder).logs[log].records() == RunFolder(local.folder).logs[log].records()
    assert {"stage 1, step 0", "stage 2, step 1", "base", "stage1-end"} <= set(engines[0].names)


def test_a_stale_engine_ends_the_run_before_anything_is_sampled(recipe_data, monkeypatch):
    handed_over = []

    def forgets(source, twin):
        handed_over.append(1)
        if len(handed_over) < 3:
            copy_weights(source, twin)

    engine_of_runs(monkeypatch, forgets)
    with pytest.raises(RunFailed, match=r"stale.*owpo resume") as failure:
        train(build_config(recipe_data, "test"))
    steps = re.search(r"at stage 1, step (\d) .*weights of stage 1, step (\d)\.", str(failure.value))
    assert steps is not None
    now, held = map(int, steps.groups())
    metrics = RunFolder(Path(recipe_data["run"]["folder"])).logs["metrics"].records()
    assert [record["step"] for record in metrics] == list(range(1, now + 1))
    # The third weights were not taken over: those after the second step that changed any.
    assert [record["step"] for record in metrics if record["updates"]][1] == now
    assert sum(record["updates"] > 0 for record in metrics if record["step"] <= held) == 1


def test_the_trainer_and_the_sampler_are_held_against_each_other(recipe_data, monkeypatch):
    """A sampler whose log-probs are all 0.1 too low shows in every step's metrics."""
    local = train(build_config(recipe_data, "test"))
    assert all(0 <= m["sampler_gap"] < 1e-5 for m in local.metrics() if m["updates"])
    assert all(abs(m["kl_sampler_to_trainer"]) < 1e-6 for m in local.metrics() if m["updates"])

    real = LocalSampler.batches

    def low(self, *args, **settings):
        for responses in real(self, *args, **settings):
            responses.sampler_logp.sub_(0.1)
            yield responses

    monkeypatch.setattr(LocalSampler, "batches", low)
    recipe_data["run"]["folder"] += "-low"
    for metrics in train(build_config(recipe_data, "test")).metrics():
        if metrics["updates"]:
            assert metrics["sampler_gap"] == pytest.approx(0.1, abs=1e-4)
            assert metrics["kl_sampler_to_trainer"] == pytest.approx(0.0052, abs=1e-4)  # e^0.1 - 1 - 0.1


def test_vllm_is_started_as_the_recipe_says(recipe_data, tiny_model, monkeypatch):
    started = {}
    monkeypatch.setattr("owpo.training.engine.open_vllm", lambda *_, **settings: started.update(settings))
    recipe_data["rollout"] |= {"engine": "vllm", "batch_size": 48, "vllm": {"cache_gib": 0.5, "eager": True}}
    open_engine(build_config(recipe_data, "test"), load_policy(str(tiny_model)), tiny_model, lambda: 7)
    seed = started.pop("seed")
    assert started == {
        "max_model_len": 11, "max_num_seqs": 48, "cache_gib": 0.5, "eager": True, "trust_remote_code": False,
    }  # fmt: skip
    recipe_data["seed"] += 1
    open_engine(build_config(recipe_data, "test"), load_policy(str(tiny_model)), tiny_model, lambda: 7)
    assert started["seed"] != seed


def test_a_missing_vllm_is_told_before_a_model_loads(recipe_data, monkeypatch):
    monkeypatch.setattr("owpo.engines.vllm_engine.find_spec", lambda name: None)
    monkeypatch.setattr("owpo.run.load_policy", lambda *_, **__: pytest.fail("a model was loaded"))
    recipe_data["rollout"]["engine"] = "vllm"
    with pytest.raises(
        InputError, match=r"needs the package vllm: pip install 'owpo\[vllm\]'.*docs/vllm.md.*'local'"
    ):
        train(build_config(recipe_data, "test"))


def test_a_folder_named_vllm_is_no_vllm(tmp_path, monkeypatch):
    if "vllm" in sys.modules:
        pytest.skip("vLLM is imported")
    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match="needs the package vllm"):
        check_installed()
