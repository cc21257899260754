"""owpo inside TRL: the same losses and gradients, and a reference that moves, is saved and comes back."""

import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from fixed_batch import CASES, GROUP, assert_close, fixed_rows, in_two_processes, local_gradients
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from trl_batches import as_trl, trainer_of, trl_gradients

from owpo.core.reduce import MODES
from owpo.core.registry import entries, objective
from owpo.errors import InputError
from owpo.hosts.trl import OWPOConfig
from owpo.policy.load import load_policy
from owpo.policy.weights import content_hash

OBJECTIVES = [entry.name for entry in entries() if not objective(entry.name).needs.prepared]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trl")
    return write_tiny_model(folder / "model"), write_tiny_model(folder / "reference", seed=1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_the_local_engines_in_any_micro_batches(models, tmp_path, name):
    trainer = trainer_of(models[0], tmp_path, objective=name)
    rows = fixed_rows(*models)
    expected_loss, expected = local_gradients(models[0], rows, trainer.objective, None)
    for split in (1, 2, 4):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(split))  # as TRL shuffles
        parts = [as_trl(rows, trainer, part.tolist()) for part in order.chunk(split)]
        loss, found = trl_gradients(trainer, parts)
        assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-7)
        assert_close(found, expected)


@pytest.mark.parametrize("reduction", MODES)
def test_every_reduction_counts_the_whole_step(models, tmp_path, reduction):
    trainer = trainer_of(models[0], tmp_path, reduction=reduction)
    rows = fixed_rows(*models)
    parts = [as_trl(rows, trainer, list(range(start, start + 3))) for start in range(0, 12, 3)]
    _, found = trl_gradients(trainer, parts)
    _, expected = local_gradients(models[0], rows, trainer.objective, reduction)
    assert_close(found, expected)


@pytest.fixture(scope="module")
def gradients_of_two(models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    in_two_processes("trl_two_processes.py", *models, folder)
    return folder


@pytest.mark.parametrize(("name", "reduction"), CASES)
def test_two_processes_take_the_step_of_one(models, gradients_of_two, name, reduction):
    _, expected = local_gradients(models[0], fixed_rows(*models), objective(name), reduction)
    assert_close(torch.load(gradients_of_two / f"{name}.pt", weights_only=True), expected)


class Hashes(TrainerCallback):
    """The policy's weights after every optimiser step."""

    def __init__(self):
        self.of_step = {}

    def on_step_end(self, args, state, control, model, **kwargs):
        self.of_step[state.global_step] = content_hash(model)


def trained(models, folder, resume=None, **settings):
    trainer = trainer_of(models[0], folder, **{"move_every": 2, "max_steps": 5, **settings})
    hashes = Hashes()
    trainer.add_callback(hashes)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, hashes.of_step


def test_the_reference_is_replaced_by_the_policy(models, tmp_path):
    trainer, hashes = trained(models, tmp_path)
    first, *moved = trainer.lineage
    assert first == {"step": 0, "from": "the policy as it started", "hash": first["hash"]}
    assert [(each["step"], each["hash"]) for each in moved] == [(2, hashes[2]), (4, hashes[4])]
    assert content_hash(trainer.ref_model) == hashes[4] != hashes[5]


def test_a_stage_may_begin_later_than_the_run(models, tmp_path):
    trainer, hashes = trained(models, tmp_path, first_step=1, max_steps=5)
    assert [(each["step"], each["hash"]) for each in trainer.lineage[1:]] == [(3, hashes[3]), (5, hashes[5])]


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        # one update a rollout: 4 active samples fall to 1 between two moves
        ({"move_every": 4}, range(5), [(0, 4), (1, 3), (2, 2), (3, 1), (0, 4)]),
        ({"move_every": 4, "first_step": 3}, range(3, 8), [(0, 4), (1, 3), (2, 2), (3, 1), (0, 4)]),
        ({"max_steps": 6, "first_step": 2}, (2, 5), [(0, 4), (3, 1)]),
        ({"active_samples": "all", "move_every": 4}, (0, 3), [(0, 4), (3, 4)]),
        # three updates a rollout: a stage of 12 has 4 rollouts
        (
            {"move_every": 12, "steps_per_generation": 9},
            (0, 3, 6, 9, 12),
            [(0, 4), (1, 3), (2, 2), (3, 1), (0, 4)],
        ),
        # the reference moves within a rollout: there is no time for a curriculum
        ({"move_every": 2, "steps_per_generation": 9}, (0, 3), [(0, 4), (0, 4)]),
    ],
)
def test_a_stage_counts_rollouts(models, tmp_path, settings, steps, expected):
    trainer = trainer_of(models[0], tmp_path, **settings)
    trainer.state.max_steps = trainer.args.max_steps
    found = []
    for step in steps:
        trainer.state.global_step = step
        found.append((trainer._rollout_step, trainer._num_active(GROUP)))
    assert found == expected


def test_a_reference_of_its_own_comes_first(models, tmp_path):
    trainer, _ = trained(models, tmp_path, reference=str(models[1]), move_every=None)
    assert [each["from"] for each in trainer.lineage] == [str(models[1])]
    assert trainer.lineage[0]["hash"] == content_hash(load_policy(str(models[1])).model)
    assert content_hash(trainer.ref_model) == trainer.lineage[0]["hash"]


def test_deviations_start_at_zero_after_a_move(models, tmp_path):
    """One rollout serves six updates, and the reference moves among them: what it had scored is scored again."""
    trainer, _ = trained(
        models, tmp_path, move_every=3, max_steps=6, gradient_accumulation_steps=1, steps_per_generation=6,
        active_samples="all", per_device_train_batch_size=32, num_generations=16,
    )  # fmt: skip
    deltas = {record["step"]: record["delta"] for record in trainer.state.log_history if "delta" in record}
    assert deltas[1] == pytest.approx(0, abs=1e-6)
    assert abs(deltas[3]) > 1e-3
    assert deltas[4] == pytest.approx(0, abs=1e-6)
    assert abs(deltas[6]) > 1e-3


def test_the_reference_is_in_the_checkpoint_and_comes_back(models, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole, hashes = trained(models, tmp_path / "whole", max_steps=3, **saving)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    again, later = trained(models, tmp_path / "again", resume=str(checkpoint), max_steps=5, **saving)
    assert again.lineage[:2] == whole.lineage == again.lineage[:-1]
    assert again.lineage[1]["hash"] == hashes[2]
    assert again.lineage[-1] == {"step": 4, "from": "the policy after step 4", "hash": later[4]}
    saved = AutoModelForCausalLM.from_pretrained(checkpoint / "owpo" / "reference")
    assert content_hash(saved) == hashes[2]


def test_a_checkpoint_without_its_reference_is_refused(models, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trained(models, tmp_path, **saving)
    state = tmp_path / "checkpoint-2" / "owpo"
    other = load_policy(str(models[1])).model
    other.save_pretrained(state / "reference")
    with pytest.raises(InputError, match="is not the reference of this checkpoint"):
        trained(models, tmp_path / "again", resume=str(tmp_path / "checkpoint-2"), **saving)
    (state / "lineage.json").unlink()
    with pytest.raises(InputError, match="holds no reference"):
        trained(models, tmp_path / "again", resume=str(tmp_path / "checkpoint-2"), **saving)


def test_learning_happens(models, tmp_path):
    """Chance is 1 in 15. TRL's `reward` is of the groups that were kept."""
    trainer, _ = trained(
        models, tmp_path, move_every=20, max_steps=60, per_device_train_batch_size=32, num_generations=16,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    accuracy = [record["accuracy"] for record in trainer.state.log_history if "accuracy" in record]
    assert sum(accuracy[:5]) / 5 < 0.2
    assert sum(accuracy[-5:]) / 5 > 0.6


def test_evaluation_has_a_loss_of_its_own_batch(models, tmp_path):
    trainer = trainer_of(models[0], tmp_path, per_device_eval_batch_size=GROUP)
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss_type": "grpo"}, "loss_type = 'grpo' is not read by OWPOTrainer; use objective"),
        ({"beta": 0.04}, "beta = 0.04 is not read"),
        ({"epsilon_high": 0.3}, "clip_high"),
        ({"sync_ref_model": True}, "use move_every"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile"),
        ({"objective": "owpoo"}, "Did you mean 'owpo'?"),
        ({"objective_args": {"w_low": 2.0}}, "objective: "),
        ({"objective": "shuffled"}, "prepares weights over a whole step"),
        ({"objective": "dapo", "move_every": 3}, "'dapo' reads no reference"),
        ({"move_every": 0}, "move_every = 0 must be at least 1"),
        ({"first_step": -1}, "first_step = -1 must be at least 0"),
        ({"reduction": "token-meen"}, "Did you mean 'token-mean'?"),
        ({"active_samples": "some"}, "active_samples = 'some' is neither"),
        ({"steps_per_generation": 2, "gradient_accumulation_steps": 4}, "must be a multiple of"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, settings, told):
    with pytest.raises(InputError, match=re.escape(told)):
        OWPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


ADAPTER = {"r": 2, "target_modules": "all-linear", "init_lora_weights": True}


def policy_adapter(model) -> list[torch.Tensor]:
    return [value.detach().clone() for name, value in model.named_parameters() if ".default." in name]


def test_the_reference_of_an_adapter_is_its_base_and_then_an_adapter(models, tmp_path):
    trainer = trainer_of(models[0], tmp_path, LoraConfig(**ADAPTER), move_every=2, max_steps=5)
    seen = {}

    class Adapters(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            seen[state.global_step] = policy_adapter(model)

    trainer.add_callback(Adapters())
    trainer.train()
    assert [each["from"] for each in trainer.lineage] == [
        "the base", "the policy after step 2", "the policy after step 4",
    ]  # fmt: skip
    reference = [value for name, value in trainer.model.named_parameters() if ".ref." in name]
    assert all(torch.equal(one, other) for one, other in zip(reference, seen[4], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(reference, seen[5], strict=True))
    assert not any(value.requires_grad for value in reference)
    assert trainer.model.active_adapters == ["default"]


def test_deviations_of_an_adapter_start_at_zero_after_a_move(models, tmp_path):
    trainer = trainer_of(
        models[0], tmp_path, LoraConfig(**ADAPTER), move_every=3, max_steps=6, gradient_accumulation_steps=1,
        steps_per_generation=6, active_samples="all", per_device_train_batch_size=32, num_generations=16,
    )  # fmt: skip
    trainer.train()
    deltas = {record["step"]: record["delta"] for record in trainer.state.log_history if "delta" in record}
    assert (deltas[1], deltas[4]) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert min(abs(deltas[3]), abs(deltas[6])) > 1e-5


def test_an_adapter_comes_back_as_the_reference(models, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "move_every": 2}
    whole = trainer_of(models[0], tmp_path / "whole", LoraConfig(**ADAPTER), max_steps=3, **saving)
    whole.train()
    again = trainer_of(models[0], tmp_path / "again", LoraConfig(**ADAPTER), max_steps=5, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert again.lineage[:2] == whole.lineage
    assert [each["step"] for each in again.lineage] == [0, 2, 4]


def test_an_adapter_begins_with_its_base(models, tmp_path):
    with pytest.raises(InputError, match="a PEFT policy begins with its base"):
        trainer_of(models[0], tmp_path, LoraConfig(**ADAPTER), reference=str(models[1]))


def test_a_reference_of_another_size_is_refused(models, tmp_path, byte_model):
    with pytest.raises(InputError, match="reference: the saved weights belong to a model of another"):
        trainer_of(models[0], tmp_path, reference=str(byte_model))


def test_another_release_of_trl_is_refused(monkeypatch):
    monkeypatch.setattr("owpo.hosts.versions.version", lambda name: "1.17.0")
    monkeypatch.delitem(sys.modules, "owpo.hosts.trl")
    with pytest.raises(InputError, match=r"made for trl >=1.16,<1.17, and 1.17.0 is installed: pip install"):
        importlib.import_module("owpo.hosts.trl")


def test_without_trl_the_extra_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("owpo.hosts.versions.version", missing)
    monkeypatch.delitem(sys.modules, "owpo.hosts.trl")
    with pytest.raises(InputError, match=r"pip install 'owpo\[trl\]'"):
        importlib.import_module("owpo.hosts.trl")
