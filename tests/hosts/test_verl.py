"""owpo inside verl: loaded by its plugin mechanism, strict about what it does not read, the reference its own."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from fixed_batch import in_two_processes

pytest.importorskip("verl")
pytest.importorskip("verl_on_cpu", reason="make test-verl sets what verl needs without an accelerator")

import verl
from hydra import compose, initialize_config_dir
from verl.utils.config import validate_config
from verl_batches import engine_of

from owpo.core.deviation import top_active
from owpo.errors import InputError
from owpo.hosts.job import Job
from owpo.hosts.settings import HostSettings
from owpo.hosts.verl import OWPOPPOTrainer, _check, in_our_names, settings_of
from owpo.hosts.verl_job import overrides, words
from owpo.hosts.verl_weights import copy_weights, export, load_weights, sharded_hash
from owpo.hosts.verl_worker import mean_stats
from owpo.policy.load import load_policy
from owpo.policy.weights import content_hash
from owpo.recipes import load_recipe

ROOT = Path(__file__).parents[2]
CONFIGS = str(Path(verl.__file__).parent / "trainer" / "config")
MINIMAL = [
    "actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.actor.use_dynamic_bsz=True",
]  # fmt: skip


def configured(*more: str):
    with initialize_config_dir(CONFIGS, version_base=None):
        return compose("ppo_trainer", [*MINIMAL, *more])


def test_importing_verl_brings_the_trainer():
    code = "import verl, sys; from verl.trainer.ppo.v1 import get_trainer_cls; print(get_trainer_cls('owpo').__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "OWPOPPOTrainer"


def test_another_release_of_verl_is_refused(monkeypatch):
    monkeypatch.setattr("owpo.hosts.versions.version", lambda name: "0.10.0")
    monkeypatch.delitem(sys.modules, "owpo.hosts.verl")
    with pytest.raises(
        InputError, match=r"made for verl >=0.9.1,<0.10, and 0.10.0 is installed: pip install"
    ):
        importlib.import_module("owpo.hosts.verl")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("actor_rollout_ref.actor.policy_loss.loss_mode=gspo", "use owpo.objective"),
        ("actor_rollout_ref.actor.loss_agg_mode=token-sum", "use owpo.reduction"),
        ("actor_rollout_ref.actor.clip_ratio_high=0.28", "clip_high"),
        ("actor_rollout_ref.actor.use_kl_loss=True", "use owpo.objective"),
        ("actor_rollout_ref.actor.entropy_coeff=0.01", "entropy_coeff = 0.01 is not read"),
        ("algorithm.use_kl_in_reward=True", "changes the advantage's sign"),
        (
            "+actor_rollout_ref.owpo.objectve=owpo",
            "actor_rollout_ref.owpo.objectve is not known; known: objective",
        ),
        ("+actor_rollout_ref.owpo.objective=owpoo", "Did you mean 'owpo'?"),
        ("+actor_rollout_ref.owpo.objective_args.w_low=2.0", "objective: "),
        ("+actor_rollout_ref.owpo.objective=shuffled", "prepares weights over a whole step"),
        ("+actor_rollout_ref.owpo={objective:dapo,move_every:3}", "'dapo' reads no reference"),
        ("+actor_rollout_ref.owpo.move_every=0", "move_every = 0 must be at least 1"),
        ("+actor_rollout_ref.owpo.reduction=mean", "reduction = 'mean' is unknown"),
        ("+actor_rollout_ref.owpo.active_samples=few", "neither 'curriculum' nor 'all'"),
        ("actor_rollout_ref.actor.use_dynamic_bsz=False", "ref.log_prob_micro_batch_size_per_gpu"),
    ],
)
def test_what_would_have_no_effect_is_refused(override, told):
    with pytest.raises(InputError, match=re.escape(told)):
        OWPOPPOTrainer(configured(override))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("actor_rollout_ref.model.lora_rank=8", "with LoRA verl's reference is the base"),
        ("actor_rollout_ref.actor.strategy=fsdp", "set actor.strategy and ref.strategy to 'fsdp2'"),
    ],
)
def test_a_reference_that_cannot_move_is_refused(more, told):
    with pytest.raises(InputError, match=re.escape(told)):
        OWPOPPOTrainer(configured("+actor_rollout_ref.owpo.move_every=3", more))


def test_active_samples_are_the_groups_top():
    """Rows come in any order, and not all of a group beside each other; ties go by sample."""
    trainer = object.__new__(OWPOPPOTrainer)
    trainer.settings, trainer.global_steps, trainer.total_training_steps = HostSettings(), 3, 5
    trainer.config = configured("actor_rollout_ref.rollout.n=4")
    advantage = torch.tensor([[0.5, -0.5, 1.5, -0.5], [0.0, 0.0, 0.0, 0.0]])
    keep = trainer.settings.num_active(2, 5, 4)
    assert 1 < keep < 4
    expected = top_active(advantage, keep)
    order = [4, 3, 5, 1, 2, 6, 7, 0]
    keys = [f"a_uid_{row // 4}_{row % 4}_0" for row in order]
    rows = advantage.flatten()[order].unsqueeze(1).repeat(1, 2)
    assert torch.equal(trainer._active(keys, rows), expected.flatten()[order])


def test_statistics_are_means_over_the_tokens_that_have_them():
    metrics = {"actor/owpo/delta.sum": 6.0, "actor/owpo/delta.count": 4.0, "actor/lr": 1e-6}
    metrics |= {"actor/owpo/weight.sum": 0.0, "actor/owpo/weight.count": 0.0, "owpo/accuracy": 0.25}
    mean_stats(metrics)
    assert in_our_names(metrics) == {"delta": 1.5, "learning_rate": 1e-6, "accuracy": 0.25}


@pytest.fixture
def models(tmp_path) -> tuple[Path, Path]:
    return write_tiny_model(tmp_path / "model"), write_tiny_model(tmp_path / "reference", seed=1)


def test_a_reference_moves_is_written_and_comes_back(models, tmp_path):
    policy, reference = engine_of(models[0]), engine_of(models[1], forward_only=True)
    before = sharded_hash(reference)
    assert before != sharded_hash(policy)
    export(reference, tmp_path / "saved")
    copy_weights(policy, reference)
    assert sharded_hash(reference) == sharded_hash(policy)
    load_weights(reference, tmp_path / "saved")
    assert sharded_hash(reference) == before
    assert content_hash(load_policy(str(tmp_path / "saved")).model) == content_hash(
        load_policy(str(models[1])).model
    )


def test_two_processes_move_and_write_what_one_does(models, tmp_path):
    in_two_processes("verl_two_references.py", *models, tmp_path)
    told = json.loads((tmp_path / "hashes.json").read_text())
    policy, reference = engine_of(models[0]), engine_of(models[1], forward_only=True)
    assert told["before"] == sharded_hash(reference) == told["loaded"]
    assert told["moved"] == sharded_hash(policy)
    moved = load_policy(str(tmp_path / "moved")).model
    assert content_hash(moved) == content_hash(load_policy(str(models[0])).model)


def job_of(recipe: str, folder: Path, *more: str) -> Job:
    config = load_recipe(ROOT / "recipes" / recipe, ["--run.engine", "verl", *more])
    return Job(
        folder=str(folder),
        model=str(folder / "start"),
        reference="/versions/best",
        objective=config.objective.model_dump(),
        first_step=6,
        last_step=12,
        export_steps=[9, 12],
        prompt_tokens=16,
        config=config.model_dump(mode="json"),
    )


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("verl/cpu.toml", []),
        ("demo.toml", ["--verl.gpus_per_node", "1", "--training.updates_per_batch", "4"]),
        (
            "demo.toml",
            ["--verl.gpus_per_node", "1", "--rollout.overlong_cache", "8", "--objective.name", "rloo"],
        ),
    ],
)
def test_the_words_of_a_recipe_are_a_configuration_of_verl(models, tmp_path, recipe, more):
    if "rloo" in more:
        more = [*more, "--ratchet", '{ protocol = "fixed", steps = 12 }']
    job = job_of(recipe, tmp_path, *more)
    given = {**overrides(job), "actor_rollout_ref.model.path": str(models[0])}
    with initialize_config_dir(CONFIGS, version_base=None):
        config = compose("ppo_trainer", [*words(given), *job.run.verl.overrides])
    validate_config(config, use_reference_policy=True, use_critic=False)
    settings, own = settings_of(config)
    chosen = settings.build_objective() if job.chosen.build().needs.reference else None
    _check(config, settings, needs_reference=True)
    assert (settings.objective, settings.first_step) == (job.objective["name"], 6)
    assert own["export_steps"] == [9, 12]
    assert chosen is None or chosen.config == job.chosen.build().config
    updates = job.run.training.updates_per_batch
    assert config.data.train_batch_size == updates * config.actor_rollout_ref.actor.ppo_mini_batch_size
    assert config.algorithm.adv_estimator == ("rloo" if "rloo" in more else "grpo")
    assert config.actor_rollout_ref.model.custom_chat_template.count("content") == 1
