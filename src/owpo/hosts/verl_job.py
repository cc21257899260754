"""A stage of `owpo train` in verl's trainer: python -m owpo.hosts.verl_job JOB.json

Writes verl's configuration, in the words of its command line, and runs `verl.trainer.main_ppo` in this process.
"""

from __future__ import annotations

import json
import runpy
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from owpo.disk.logs import read_jsonl_records
from owpo.errors import InputError
from owpo.hosts.job import Job
from owpo.hosts.step_log import metrics_file

_ESTIMATORS = {"group_std": ("grpo", True), "group_mean": ("grpo", False), "leave_one_out": ("rloo", True)}
_DTYPES = {"float32": ("fp32", "float32"), "bfloat16": ("bf16", "bfloat16")}
# Prompts are in their template already: the one message as it is.
_AS_IT_IS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def overrides(job: Job) -> dict[str, Any]:
    """verl's configuration of a recipe, where it is not verl's default. A name with + is not in verl's own files."""
    run = job.run
    return {
        **_data(job),
        **_model(job),
        **_training(job),
        **_owpo(job),
        "trainer.v1.trainer_mode": "owpo",
        "trainer.nnodes": run.verl.nodes,
        "trainer.n_gpus_per_node": run.verl.gpus_per_node,
        "trainer.default_local_dir": str(job.path / "checkpoints"),
        "trainer.resume_mode": "auto",
        "trainer.save_freq": run.run.checkpoint_every,
        # verl removes the oldest before it has written the newest.
        "trainer.max_actor_ckpt_to_keep": max(2, run.run.keep_checkpoints),
        "trainer.total_training_steps": job.last_step,
        "trainer.total_epochs": 10**6,  # the steps decide
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.logger": ["console"],
        "hydra.run.dir": str(job.path / "hydra"),
    }


def _data(job: Job) -> dict[str, Any]:
    run = job.run
    rollout = run.rollout
    reward = {**run.verifier.spec(), **{k: v for k, v in run.verifier.limits().items() if v is not None}}
    overlong = {
        "reward.reward_manager.name": "dapo",
        "+reward.reward_kwargs.max_resp_len": rollout.max_new_tokens,
        "+reward.reward_kwargs.overlong_buffer_cfg.enable": True,
        "+reward.reward_kwargs.overlong_buffer_cfg.len": rollout.overlong_cache,
        "+reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": 1.0,
        "+reward.reward_kwargs.overlong_buffer_cfg.log": False,
    }
    is_dynamic = rollout.dynamic_sampling
    if is_dynamic is None:
        is_dynamic = job.chosen.build().scaffold.dynamic_sampling
    return {
        "data.train_files": str(job.path / "train.parquet"),
        "data.val_files": str(job.path / "train.parquet"),  # not read: evaluations are ours
        "data.val_max_samples": 1,
        "data.train_batch_size": rollout.prompts,
        "data.max_prompt_length": job.prompt_tokens,
        "data.max_response_length": rollout.max_new_tokens,
        "data.seed": run.seed,
        "algorithm.filter_groups.enable": is_dynamic,
        "algorithm.filter_groups.metric": "acc",
        "reward.custom_reward_function.path": "pkg://owpo.hosts.rewards",
        "reward.custom_reward_function.name": "compute_score",
        **{f"+reward.custom_reward_function.reward_kwargs.{name}": value for name, value in reward.items()},
        **(overlong if rollout.overlong_cache else {}),
    }


def _model(job: Job) -> dict[str, Any]:
    run = job.run
    computes_in, samples_in = _DTYPES[run.run.dtype]
    own = "actor_rollout_ref"
    return {
        f"{own}.model.path": job.model,
        f"{own}.model.custom_chat_template": _AS_IT_IS,
        f"{own}.model.trust_remote_code": run.model.trust_remote_code,
        f"{own}.model.enable_gradient_checkpointing": run.training.gradient_checkpointing,
        f"{own}.rollout.name": "vllm",
        f"{own}.rollout.n": run.rollout.group_size,
        f"{own}.rollout.temperature": run.rollout.temperature,
        f"{own}.rollout.tensor_model_parallel_size": run.verl.tensor_parallel,
        f"{own}.rollout.max_model_len": job.prompt_tokens + run.rollout.max_new_tokens,
        f"{own}.rollout.dtype": samples_in,
        f"{own}.rollout.seed": run.seed,
        **{
            f"{own}.{part}.fsdp_config.model_dtype": "fp32" for part in ("actor", "ref")
        },
        **{
            f"+{own}.{part}.fsdp_config.mixed_precision": {
                "param_dtype": computes_in, "reduce_dtype": "fp32", "buffer_dtype": "fp32",
            }
            for part in ("actor", "ref")
        },
    }  # fmt: skip


def _training(job: Job) -> dict[str, Any]:
    run = job.run
    training, actor = run.training, "actor_rollout_ref.actor"
    estimator = training.advantage or job.chosen.build().scaffold.advantage
    name, by_std = _ESTIMATORS[estimator]
    updates = training.updates_per_batch
    return {
        "algorithm.adv_estimator": name,
        "algorithm.norm_adv_by_std_in_grpo": by_std,
        f"{actor}.strategy": "fsdp2",
        f"{actor}.ppo_mini_batch_size": run.rollout.prompts // updates,
        f"{actor}.shuffle": True,
        f"{actor}.data_loader_seed": run.seed,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": run.verl.tokens_per_gpu,
        f"{actor}.calculate_entropy": True,
        f"{actor}.optim.lr": training.learning_rate,
        f"{actor}.optim.lr_warmup_steps": -(
            -training.warmup_updates // updates
        ),  # verl's count rollout steps
        f"{actor}.optim.weight_decay": training.weight_decay,
        f"{actor}.optim.betas": [training.beta1, training.beta2],
        f"{actor}.optim.clip_grad": training.grad_clip,
    }


def _owpo(job: Job) -> dict[str, Any]:
    training = job.run.training
    settings = {
        "objective": job.objective["name"],
        "objective_args": job.objective_args,
        "reference": job.reference,
        "active_samples": training.active_samples,
        "reduction": training.reduction,
        "first_step": job.first_step,
        "export_to": str(job.path / "exports"),
        "export_steps": job.export_steps,
        "metrics": str(metrics_file(job.path)),
    }
    return {f"+actor_rollout_ref.owpo.{name}": value for name, value in settings.items()}


def words(settings: dict[str, Any]) -> list[str]:
    """As Hydra's command line takes them."""
    return [f"{name}={_word(value)}" for name, value in settings.items()]


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_word(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_word, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)  # numbers, true, false, null


def write_data(job: Job) -> None:
    """The problems in verl's columns."""
    rows = [
        {
            "data_source": "owpo",
            "prompt": [{"role": "user", "content": record["prompt"]}],
            "reward_model": {"style": "rule", "ground_truth": record["answer"]},
            "extra_info": {"index": index, "id": record["id"]},
        }
        for index, record in enumerate(read_jsonl_records(job.path / "train.jsonl"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), job.path / "train.parquet")


def main() -> None:
    job = Job.read(sys.argv[1])
    import owpo.hosts.verl  # noqa: F401  (says what is wrong with the installation; verl itself would not)

    write_data(job)
    sys.argv = ["verl.trainer.main_ppo", *words(overrides(job)), *job.run.verl.overrides]
    runpy.run_module("verl.trainer.main_ppo", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
