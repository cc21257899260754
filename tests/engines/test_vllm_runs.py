"""The real vLLM, where it is installed: other architectures and dtypes, and whole runs. Each starts one of its own."""

import pytest

pytest.importorskip("vllm")

import torch
from conftest import write_problems
from engine_builders import PAD, PROMPTS, SETTINGS, change_weights, largest_gap, open_tiny_vllm, write_model
from vllm.model_executor.layers.linear import UnquantizedLinearMethod

from owpo.engines.vllm_engine import VLLMEngine, installed_version
from owpo.errors import InputError, Interrupted, RunFailed
from owpo.policy import load_policy
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.runs.folder import RunFolder
from owpo.stop import StopSignal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("engines") / "model")


@pytest.mark.parametrize(("kind", "changes"), [
    ("llama", {"tie_word_embeddings": True}), ("qwen2", {}), ("qwen3", {"tie_word_embeddings": True}),
])  # fmt: skip
def test_every_weight_of_an_architecture_reaches_it(tmp_path, kind, changes):
    """Ties, biases, normalised queries: log-probs are the policy's after every update, though it began at random."""
    folder = write_model(tmp_path / kind, kind, **changes)
    policy = load_policy(str(folder))
    with open_tiny_vllm(policy, folder) as engine:
        for number, size in enumerate((0.0, 1e-1, 1e-3, 1e-6)):
            change_weights(policy, size, seed=number)
            for responses in engine.sampler(policy, f"update {number}").batches(PROMPTS, **SETTINGS):
                assert largest_gap(policy, responses) < 1e-5


def test_bfloat16(folder):
    policy = load_policy(str(folder), dtype="bfloat16")
    with open_tiny_vllm(policy, folder) as engine:
        for number in range(3):
            change_weights(policy, 1e-2, seed=number)
            (responses,) = engine.sampler(policy, f"update {number}").batches(
                PROMPTS, **(SETTINGS | {"batch_size": 60})
            )
            assert 1e-4 < largest_gap(policy, responses) < 0.2  # rounding, and not more
        engine._hand_over = lambda _policy: None
        change_weights(policy, 3e-2, seed=5)
        with pytest.raises(RunFailed, match="stale: .*weights of update 2"):
            engine.sampler(policy, "update 3")


def test_the_digest_sees_through_vllms_fused_and_padded_weights(folder, monkeypatch):
    """Where vLLM keeps plain weights, as on CUDA; its CPU build packs them, which is switched off here."""

    def stay_plain(_self, layer):
        layer.cpu_linear = torch.nn.functional.linear

    monkeypatch.setattr(UnquantizedLinearMethod, "process_weights_after_loading", stay_plain)
    policy = load_policy(str(folder))
    with open_tiny_vllm(policy, folder) as engine:
        engine.sampler(policy, "the base")
        assert engine.fingerprint.compares_digests
        change_weights(policy, 1e-8)
        engine.sampler(policy, "update 1")
        old = policy.model.model.embed_tokens.weight[PAD].clone()
        change_weights(policy, 1e-2)
        right, real = policy.model.model.embed_tokens.weight[PAD].clone(), VLLMEngine._hand_over

        def all_but_a_row(self, policy):
            policy.model.model.embed_tokens.weight.data[PAD] = old
            real(self, policy)
            policy.model.model.embed_tokens.weight.data[PAD] = right

        monkeypatch.setattr(VLLMEngine, "_hand_over", all_but_a_row)
        with pytest.raises(
            RunFailed, match="wrong weights: .*agree with the policy's at update 2, but the digest"
        ):
            engine.sampler(policy, "update 2")


@pytest.fixture
def recipe(recipe_data, tmp_path, folder):
    lines = [{"prompt": f"{a}{b}=", "answer": str(b)} for a in "89" for b in "0123456789"]
    write_problems(tmp_path / "selection.jsonl", lines)
    recipe_data["model"]["path"] = str(folder)
    recipe_data["rollout"] |= {"engine": "vllm", "vllm": {"cache_gib": 0.25}}
    recipe_data["ratchet"] = {"protocol": "every_k", "steps": 4, "k": 2, "gate": {}}
    return recipe_data


def test_a_run_and_a_run_that_was_stopped(recipe, tmp_path, monkeypatch):
    whole = train(build_config(recipe, "test"))
    folder = RunFolder(whole.folder)
    assert whole.rows[0]["version"] == "base"
    updated = [metrics for metrics in whole.metrics() if metrics["updates"]]
    assert updated and all(metrics["sampler_gap"] < 1e-5 for metrics in updated)
    assert all(abs(metrics["kl_sampler_to_trainer"]) < 1e-6 for metrics in updated)
    assert folder.environment.records()[0]["vllm"] == installed_version()

    recipe["run"]["folder"] = str(tmp_path / "stopped")
    config, checks = build_config(recipe, "test"), []
    real_check = StopSignal.check

    def check(self, *args):
        checks.append(1)
        if len(checks) in (4, 9):
            self.received = "SIGTERM"
        real_check(self, *args)

    monkeypatch.setattr(StopSignal, "check", check)
    with pytest.raises(Interrupted):
        train(config)
    with pytest.raises(Interrupted):
        resume(config.run.folder)
    again = resume(config.run.folder)
    assert (
        again.rows == whole.rows
    )  # not promised elsewhere; here every row's seed and the rounding are the same
    assert again.metrics() == whole.metrics()


def test_a_stale_vllm_ends_a_run(recipe, monkeypatch):
    real, handed_over = VLLMEngine._hand_over, []

    def forgets(self, policy):
        handed_over.append(1)
        if len(handed_over) < 3:
            real(self, policy)

    monkeypatch.setattr(VLLMEngine, "_hand_over", forgets)
    with pytest.raises(RunFailed, match="stale: .*Nothing was sampled from them; .*owpo resume"):
        train(build_config(recipe, "test"))
    monkeypatch.undo()
    assert resume(recipe["run"]["folder"]).rows


@pytest.mark.parametrize(("key", "value"), [("cache_gib", 1e-6), ("cache_gib", 1e4)])
def test_a_cache_that_does_not_fit_is_told_with_its_key(recipe, key, value):
    recipe["rollout"]["vllm"][key] = value
    with pytest.raises(
        InputError, match=f"vLLM does not start with rollout.vllm.{key} = {value:g} and .*: .*memory"
    ):
        train(build_config(recipe, "test"))


def test_what_vllm_cannot_run_is_told(tmp_path, recipe_data):
    """Heads of 16, which its CPU kernels do not know: known only once it computes."""
    recipe_data["model"]["path"] = str(
        write_model(tmp_path / "narrow", head_dim=16, num_attention_heads=4, num_key_value_heads=4)
    )
    recipe_data["rollout"] |= {"engine": "vllm", "vllm": {"cache_gib": 0.25}}
    with pytest.raises(RunFailed, match=r"vLLM failed while it was given weights: .*head_dim=16"):
        train(build_config(recipe_data, "test"))
