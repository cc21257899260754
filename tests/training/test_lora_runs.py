"""Whole runs whose learner is an adapter: protocols, gate, resume, versions, damage."""

import importlib.util
import json
import random
from pathlib import Path

import peft
import pytest
import torch
from conftest import write_problems, write_tiny_model
from safetensors.torch import load_file
from test_resume import BEST_OF_STAGE, EVERY_K, LEAPFROG, assert_same, in_folder
from transformers import AutoModelForCausalLM

from owpo import evaluate
from owpo.errors import InputError, Interrupted
from owpo.policy import Responses, lora, policy_hash, response_logprobs
from owpo.policy.load import load_policy
from owpo.policy.weights import content_hash
from owpo.ratchet import candidate as proposals
from owpo.ratchet.gate import Decision
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.runs.checkpoints import CheckpointStore
from owpo.runs.folder import RunFolder
from owpo.runs.versions import VersionStore
from owpo.stop import StopSignal

TABLE = {"rank": 4, "alpha": 8}
PROTOCOLS = {
    "fixed": {"protocol": "fixed", "steps": 4, "reference": "base"},
    "every_k": EVERY_K,
    "best_of_stage": BEST_OF_STAGE,
    "leapfrog": LEAPFROG,
}


@pytest.fixture
def lora_data(recipe_data) -> dict:
    recipe_data["model"]["lora"] = TABLE
    recipe_data["rollout"] |= {"dynamic_sampling": False, "group_size": 32}  # a gradient in every step
    return recipe_data


def read(folder: Path, log: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{log}.jsonl").read_text().splitlines()]


def adapters(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "versions").glob("*/adapter_config.json"))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_keeps_adapters_of_one_base(lora_data, tiny_model, name, monkeypatch):
    loaded = []
    real = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda path, **k: loaded.append(path) or real(path, **k)
    )
    lora_data["ratchet"] = PROTOCOLS[name]
    finished = train(build_config(lora_data, "test"))
    versions = finished.folder / "versions"
    # Once for the check before the run and once for the run: never a second base beside the learner's.
    assert loaded == [str(tiny_model), str(versions / "base")]
    base = content_hash(load_policy(str(tiny_model)).model)
    assert VersionStore(versions).describe("base").hash == base
    assert content_hash(load_policy(str(versions / "base")).model) == base
    assert len(adapters(finished.folder)) >= (1 if name == "fixed" else 2)
    for folder in adapters(finished.folder):
        described = VersionStore(versions).describe(folder.name)
        assert described.base == {"version": "base", "hash": base}
        assert not (folder / "model.safetensors").exists()
        assert policy_hash(load_policy(str(folder))) == described.hash
    moves = read(finished.folder, "moves")
    if name == "every_k":
        assert [move["after"]["abs_delta"] for move in moves if move["after"]] == [0.0] * 3
        assert moves[1]["before"]["abs_delta"] > 0
    if name == "leapfrog":
        assert moves[-1]["after"]["abs_delta"] > 0
    for record in read(finished.folder, "lineage")[1:]:
        assert record["drift"]["first"]["kl"] > 0
    newest = CheckpointStore(finished.folder / "checkpoints").load_newest()
    assert {name.rsplit(".", 2)[1] for name in newest.weights} == {"lora_A", "lora_B"}
    assert len([name for name in newest.optimizer if name.endswith("exp_avg")]) == len(newest.weights)


def test_the_first_step_against_the_base_has_weight_one(lora_data):
    finished = train(build_config(lora_data, "test"))
    assert read(finished.folder, "moves")[0]["after"]["abs_delta"] == 0.0


def test_versions_give_the_log_probs_of_merged_models_here_and_in_peft(lora_data):
    lora_data["ratchet"] = LEAPFROG
    finished = train(build_config(lora_data, "test"))
    versions = finished.folder / "versions"
    responses = Responses(
        prompts=[[2, 3], [4, 5, 6]],
        tokens=torch.tensor([[7, 8, 9, 0], [10, 11, 12, 3]]),
        mask=torch.tensor([[True, True, True, False], [True] * 4]),
        sampler_logp=torch.zeros(2, 4),
        truncated=torch.zeros(2, dtype=torch.bool),
    )
    for folder in adapters(finished.folder):
        policy = load_policy(str(folder))
        with torch.no_grad():
            found, _ = response_logprobs(policy, responses, 1.0)
            merged, _ = response_logprobs(lora.merged(policy), responses, 1.0)
        torch.testing.assert_close(found, merged, atol=1e-5, rtol=0)
        plain = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(versions / "base"), folder
        )
        ids = torch.tensor([responses.prompts[1] + responses.tokens[1].tolist()])
        with torch.no_grad():
            theirs = plain(input_ids=ids).logits.log_softmax(-1)[0, 2:-1]
        theirs = theirs.gather(1, responses.tokens[1].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(found[1], theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["leapfrog", "every_k", "best_of_stage"])
def test_stops_at_every_kind_of_moment_change_nothing(lora_data, tmp_path, monkeypatch, name):
    data = {**lora_data, "ratchet": PROTOCOLS[name]}
    whole = train(build_config(in_folder(data, tmp_path / "whole"), "test"))
    config = build_config(in_folder(data, tmp_path / "parts"), "test")
    chance, stops, run = random.Random(3), 0, None
    real_check = StopSignal.check

    def check(self, *args):
        if chance.random() < 1 / 6:
            self.received = "SIGTERM"
        real_check(self, *args)

    monkeypatch.setattr(StopSignal, "check", check)
    while run is None:
        try:
            run = resume(config.run.folder) if Path(config.run.folder).exists() else train(config)
        except Interrupted:
            stops += 1
            assert stops < 100
    assert stops > 3
    assert run.rows == whole.rows
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_gated_run_learns_refuses_and_rolls_back(lora_data, tmp_path, monkeypatch):
    """Stage 1 learns to copy a digit and passes the gate's test; stage 2 is refused, and stage 3 begins anew at 1's."""
    lines = [{"id": f"{set_}{d}", "prompt": f"{d}=", "answer": d} for set_ in "ab" for d in "0123456789"]
    write_problems(tmp_path / "train.jsonl", lines)
    write_problems(tmp_path / "selection.jsonl", lines)
    lora_data["problems"]["overlap"] = "report"
    lora_data["rollout"] |= {"prompts": 8, "group_size": 16, "max_new_tokens": 2, "dynamic_sampling": True}
    lora_data["run"]["checkpoint_every"] = lora_data["evaluation"]["every"] = 20
    lora_data["evaluation"]["samples"] = 4
    lora_data["training"]["learning_rate"] = 5e-3
    lora_data["model"]["lora"] = {}  # rank 16, alpha 32
    gate = {"max_kl": "off", "max_truncated_rise": "off", "on_refusal": "roll_back"}
    lora_data["ratchet"] = {"protocol": "best_of_stage", "stages": 3, "steps": 60, "gate": gate}
    real = proposals.decide

    def decide(evidence, config, seed):
        decision = real(evidence, config, seed)
        if len(decided) == 1:
            decision = Decision(
                refusals=["dictated"], gain=0.0, p_value=1.0, evidence=evidence, config=config
            )
        decided.append(decision)
        return decision

    decided: list[Decision] = []
    monkeypatch.setattr(proposals, "decide", decide)
    finished = train(build_config(lora_data, "test"))
    first, second = read(finished.folder, "lineage")[1:3]
    assert first["accepted"] and first["gate"]["p_value"] < 0.05, first
    assert not second["accepted"] and second["in_force"] == first["candidate"]
    third = read(finished.folder, "moves")[2]
    assert third["learner_from"] == third["reference"] == first["candidate"]
    assert third["after"]["abs_delta"] == 0


def test_a_given_reference_stays_a_whole_model(lora_data, tmp_path):
    given = write_tiny_model(tmp_path / "given", seed=3)
    lora_data["ratchet"] = {"protocol": "fixed", "steps": 3, "reference": str(given)}
    finished = train(build_config(lora_data, "test"))
    store = VersionStore(finished.folder / "versions")
    assert store.describe("reference").base is None
    assert read(finished.folder, "moves")[0]["after"]["abs_delta"] > 0
    assert finished.rows[1]["version"] == "reference"
    again = evaluate(finished.folder / "versions" / "reference", like=finished.folder, out=tmp_path / "again")
    assert again.sets["report"].to_json()["accuracy"] == finished.rows[1]["accuracy"]


def test_eval_of_a_version_repeats_the_closing_table(lora_data, tmp_path):
    lora_data["ratchet"] = EVERY_K
    finished = train(build_config(lora_data, "test"))
    id = finished.rows[-1]["version"]
    evaluate(finished.version_folder(id), like=finished.folder, out=tmp_path / "again")
    mine = (finished.folder / "report" / id / "report.jsonl").read_text()
    assert (tmp_path / "again" / "report.jsonl").read_text() == mine
    settings = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert settings["model_hash"] == RunFolder(finished.folder).versions.describe(id).hash


def test_damage_of_adapter_or_base_is_refused(lora_data, tmp_path, monkeypatch):
    lora_data["ratchet"] = EVERY_K
    config = build_config(lora_data, "test")
    folder = Path(config.run.folder)
    real = StopSignal.check

    def check(self, *args):
        if (folder / "metrics.jsonl").exists() and len(read(folder, "metrics")) >= 5:
            self.received = "SIGTERM"
        real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopSignal, "check", check)
        train(config)
    files = [
        *(folder / "versions" / "stage1-end").iterdir(),
        folder / "versions" / "base" / "model.safetensors",
    ]
    assert {file.name for file in files} > {"adapter_model.safetensors", "adapter_config.json", "base.json"}
    for file in files:
        written = file.read_bytes()
        spoiled = bytearray(written)
        spoiled[len(spoiled) // 2] ^= 4
        file.write_bytes(bytes(spoiled))
        with pytest.raises(InputError, match="restore"):
            resume(folder)
        file.write_bytes(written)
    resume(folder)
    weights = folder / "versions" / "base" / "model.safetensors"
    spoiled = bytearray(weights.read_bytes())
    spoiled[-4] ^= 1  # the last bits of a float
    weights.write_bytes(bytes(spoiled))
    with pytest.raises(InputError, match="was trained on a base with hash"):
        evaluate(folder / "versions" / "stage1-end", like=folder, out=tmp_path / "evaluation")


def test_what_cannot_be_is_refused_before_there_is_a_folder(lora_data, tmp_path, monkeypatch):
    folder = Path(lora_data["run"]["folder"])

    def expect(sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            train(build_config(lora_data, "test"))
        assert not folder.exists()

    lora_data["model"]["lora"] = {"target_modules": ["lm_head"]}
    expect("model.lora.target_modules: 'lm_head' is the output layer")
    lora_data["model"]["lora"] = {"target_modules": ["q_pro"]}
    expect("model.lora.target_modules: 'q_pro' names no module. Did you mean 'q_proj'")
    lora_data["model"]["lora"] = {}
    real = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
        lora_data["model"]["path"] = "nowhere"  # it is said before the model is looked for
        expect(r"model.lora: LoRA needs the package peft: pip install 'owpo\[lora\]'")


def test_a_run_is_not_given_an_adapter(lora_data, tmp_path):
    finished = train(build_config(lora_data, "test"))
    adapter = str(adapters(finished.folder)[0])
    lora_data["run"]["folder"] = str(tmp_path / "second")
    lora_data["model"]["path"] = adapter
    with pytest.raises(
        InputError, match="is an adapter, and a run is given whole models; make one of it by `owpo export"
    ):
        train(build_config(lora_data, "test"))


def test_the_run_folder_can_be_moved_and_its_versions_stay_small(lora_data, tmp_path):
    lora_data["ratchet"] = BEST_OF_STAGE
    finished = train(build_config(lora_data, "test"))
    expected = {path.name: policy_hash(load_policy(str(path))) for path in adapters(finished.folder)}
    finished.folder.rename(tmp_path / "moved")
    moved = adapters(tmp_path / "moved")
    assert {path.name: policy_hash(load_policy(str(path))) for path in moved} == expected
    tensors = load_file(moved[0] / "adapter_model.safetensors")
    assert all(len(tensor.shape) == 2 and 4 in tensor.shape for tensor in tensors.values())


def test_the_environment_names_the_version_of_peft(lora_data):
    finished = train(build_config(lora_data, "test"))
    assert [start["peft"] for start in read(finished.folder, "environment")] == [peft.__version__]
