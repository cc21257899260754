"""A stage of `owpo train` in TRL's trainer: python -m owpo.hosts.trl_job JOB.json [OPTION=VALUE ...]

The first process starts as many as the recipe asks for, by torchrun; each of them then trains.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import load_dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from owpo.errors import InputError
from owpo.hosts.job import Job
from owpo.hosts.rewards import verifier_reward
from owpo.hosts.step_log import StepLog
from owpo.hosts.trl import OWPOTrainer, last_whole_checkpoint
from owpo.hosts.trl_config import OWPOConfig
from owpo.policy.tokenizer import load_tokenizer

_SCALE = {"group_std": "group", "group_mean": "none"}
# TRL's metrics that `metrics.jsonl` has under a name of its own.
_OUR_NAMES = {
    "reward": "accuracy",
    "accuracy": "accuracy",  # with dynamic sampling: of all that was sampled, where the reward is of what was kept
    "groups_sampled": "groups_sampled",
    "groups_without_contrast": "groups_without_contrast",
    "completions/mean_length": "response_length",
    "completions/clipped_ratio": "truncated_share",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "step_time": "seconds",
}


def arguments(job: Job) -> dict[str, Any]:
    """OWPOConfig's, of a recipe."""
    run = job.run
    rollout, training, trl = run.rollout, run.training, run.trl
    updates = training.updates_per_batch
    share = rollout.prompts * rollout.group_size // updates // (trl.processes * trl.micro_batch)
    chosen = job.chosen.build()
    estimator = training.advantage or chosen.scaffold.advantage
    has_gpu = run.run.device == "cuda"
    return {
        "output_dir": str(job.path / "checkpoints"),
        "objective": chosen.name,
        "objective_args": job.objective_args,
        "reference": job.reference,
        "first_step": job.first_step * updates,
        "active_samples": training.active_samples,
        "reduction": training.reduction,
        "dynamic_sampling": rollout.dynamic_sampling,
        "max_rounds": rollout.max_rounds,
        "scale_rewards": _SCALE[estimator],
        "num_generations": rollout.group_size,
        "per_device_train_batch_size": trl.micro_batch,
        "gradient_accumulation_steps": share,
        "steps_per_generation": share * updates,
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "adam_beta1": training.beta1,
        "adam_beta2": training.beta2,
        "max_grad_norm": training.grad_clip,
        "gradient_checkpointing": training.gradient_checkpointing,
        "max_steps": job.last_step * updates,
        "save_strategy": "steps",
        "save_steps": run.run.checkpoint_every * updates,
        "save_total_limit": run.run.keep_checkpoints,
        "logging_steps": 1,
        "report_to": "none",
        "seed": run.seed,
        "use_cpu": not has_gpu,
        "bf16": run.run.dtype == "bfloat16",
        "model_init_kwargs": {"dtype": "float32", "trust_remote_code": run.model.trust_remote_code},
        "disable_tqdm": True,
        **trl.options,
    }


class StageTrainer(OWPOTrainer):
    """The reference is the run's, also where a checkpoint was made against the one before; so is the warm-up."""

    warmup: int
    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """From a first share of the rate, where transformers' own warm-up begins with 0."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda update: min(1.0, (update + 1) / max(self.warmup, 1))
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _restore_reference(self, folder: Path) -> None:
        pass


class Exports(TrainerCallback):
    """After each rollout step its numbers, and the policy where it is to be evaluated; the checkpoint comes after."""

    def __init__(self, job: Job, trainer: StageTrainer, done: int) -> None:
        self.job, self.trainer = job, trainer
        self.updates = job.run.training.updates_per_batch
        self.steps = StepLog(job.path, done) if trainer.accelerator.is_main_process else None
        self.sums: dict[str, list[float]] = {}  # of the updates of a rollout step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, rest = divmod(state.global_step, self.updates)
        if rest == 0 and step in self.job.export_steps:
            folder = self.job.export_folder(step)
            temporary = folder.with_name(f".{folder.name}")
            self.trainer.save_model(str(temporary))
            if args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
        if rest == 0 and step == self.job.last_step:
            control.should_save = True  # where the next stage goes on

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **kwargs: Any) -> None:
        if self.steps is None or "loss" not in logs:
            return
        for name, value in in_our_names(logs, self.trainer.logged_stats).items():
            self.sums.setdefault(name, []).append(value)
        step, rest = divmod(state.global_step, self.updates)
        if rest == 0:
            numbers = {name: sum(values) / len(values) for name, values in self.sums.items()}
            if "seconds" in self.sums:
                numbers["seconds"] = sum(self.sums["seconds"])
            self.steps.append(step, numbers)
            self.sums = {}


def in_our_names(logs: Mapping[str, Any], stats: set[str]) -> dict[str, float]:
    """A step's numbers as owpo's own logs name them; those without a value are left out."""
    names = {**_OUR_NAMES, **{name: name for name in stats}}
    found = {ours: logs[theirs] for theirs, ours in names.items() if logs.get(theirs) is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def train(job: Job) -> None:
    run = job.run
    settings = OWPOConfig(**arguments(job))
    trainer = StageTrainer(
        model=job.model,
        processing_class=load_tokenizer(job.model, trust_remote_code=run.model.trust_remote_code),
        reward_funcs=verifier_reward(**run.verifier.spec(), **run.verifier.limits()),
        args=settings,
        train_dataset=load_dataset("json", data_files=str(job.path / "train.jsonl"), split="train"),
    )
    trainer.warmup = run.training.warmup_updates
    last = last_whole_checkpoint(settings.output_dir)
    done = int(last.rsplit("-", 1)[1]) // run.training.updates_per_batch if last is not None else 0
    trainer.add_callback(Exports(job, trainer, done))
    trainer.train(resume_from_checkpoint=last)


def main() -> None:
    file = sys.argv[1]
    job = Job.read(file)
    processes = job.run.trl.processes
    if processes > 1 and "RANK" not in os.environ:
        if job.run.run.device == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "owpo.hosts.trl_job", file])
    train(job)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
