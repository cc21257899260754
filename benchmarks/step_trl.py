"""The step benchmark's peer: TRL's GRPOTrainer, whose phases are timed by wrapping its methods. Started by step.py.

It runs in an environment of its own, without owpo but for the clock. What it is given beside the setting: loss dapo,
beta 1e-3 (so that the reference's log-probs are computed), generation by transformers (no vLLM), gradient
checkpointing off unless asked for (TRL has it on; steps are faster without), float32 unless the setting says other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

from step_settings import BETA, EOS, LEARNING_RATE, Finished, Job, Setting, Turns, grade, source_folder

sys.path.append(str(source_folder()))
os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from owpo.clock import PhaseClock

MANY = 10**6


class Watch:
    """The clock of the step in work, what its methods are told to book on it, and what it has generated."""

    def __init__(self) -> None:
        self.clock = PhaseClock()
        self.responses: list[list[int]] = []
        self.rewards: list[float] = []

    def wrap(self, owner: Any, name: str, phase_of: Callable[..., str]) -> None:
        """Time every call of owner.name as the phase that `phase_of` its arguments names."""
        method = getattr(owner, name)

        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.clock(phase_of(*args)):
                return method(*args, **kwargs)

        setattr(owner, name, timed)


def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """The same function, asked as often and in the same order, as owpo's verifier."""
    return [float(grade(text, each)) for text, each in zip(completions, answer, strict=True)]


def main() -> None:
    job = Job.from_argument(sys.argv[1])
    setting = job.setting
    turns = Turns()
    torch.set_num_threads(job.threads)
    lines = Path(job.problems).read_text(encoding="utf-8").splitlines()
    problems = [{key: json.loads(line)[key] for key in ("prompt", "answer")} for line in lines]
    rows = setting.micro_batch_rows
    per_update = setting.rows // setting.updates // rows
    config = GRPOConfig(
        output_dir=str(Path(job.folder) / "trl"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=per_update,
        steps_per_generation=per_update * setting.updates,
        num_generations=setting.group_size,
        max_completion_length=setting.new,
        max_steps=MANY,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        loss_type="dapo",
        beta=BETA,
        temperature=1.0,
        bf16=setting.dtype == "bfloat16",
        gradient_checkpointing=job.checkpointing,
        use_cpu=setting.device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
    )
    watch = Watch()

    class TurnTaking(TrainerCallback):
        """A step lasts from the end of the one before, so that nothing falls between two."""

        since = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.ready(version("trl"))
            self._begin()

        def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % setting.updates == 0:
                turns.done(step_record(watch, time.perf_counter() - self.since, setting))
                self._begin()

        def _begin(self) -> None:
            watch.clock = PhaseClock()
            self.since = time.perf_counter()

    trainer = GRPOTrainer(
        model=job.model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(problems),
        processing_class=PreTrainedTokenizerFast.from_pretrained(job.model),
        callbacks=[TurnTaking()],
    )
    instrument(trainer, watch)
    with suppress(Finished):
        trainer.train()


def instrument(trainer: Any, watch: Watch) -> None:
    """Book what the trainer does; what is inside `training_step` and is no phase of its own is forward and backward."""
    generate, calculate, create = trainer._generate, trainer._calculate_rewards, trainer.create_optimizer

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        watch.responses = result[1]
        return result

    def kept(*args: Any, **kwargs: Any) -> Any:
        result = calculate(*args, **kwargs)
        watch.rewards = result.sum(dim=1).tolist()
        return result

    def timed_optimizer(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        watch.wrap(optimizer, "step", lambda *_: "forward-backward")
        return optimizer

    trainer._generate, trainer._calculate_rewards = counted, kept
    trainer.create_optimizer = timed_optimizer

    def scoring(*_: Any) -> str:
        """The update's own forward pass has a gradient; the reference's and the old policy's have none."""
        return "forward-backward" if torch.is_grad_enabled() else "reference"

    watch.wrap(trainer, "training_step", lambda *_: "forward-backward")
    watch.wrap(trainer, "_prepare_inputs", lambda *_: "other")
    watch.wrap(trainer, "_generate", lambda *_: "generation")
    watch.wrap(trainer, "_calculate_rewards", lambda *_: "verification")
    watch.wrap(trainer, "_get_per_token_logps_and_entropies", scoring)
    watch.wrap(trainer.accelerator, "clip_grad_norm_", lambda *_: "forward-backward")


def step_record(watch: Watch, seconds: float, setting: Setting) -> dict[str, Any]:
    groups = [
        watch.rewards[start : start + setting.group_size]
        for start in range(0, len(watch.rewards), setting.group_size)
    ]
    lengths = [len(response) for response in watch.responses]
    cut = [len(response) == setting.new and response[-1] != EOS for response in watch.responses]
    on_cuda = setting.device == "cuda"
    return {
        **({"peak_mib": torch.cuda.max_memory_allocated() / 2**20} if on_cuda else {}),
        "seconds": seconds,
        "phases": watch.clock.seconds,
        "cpu_phases": watch.clock.cpu_seconds,
        "tokens": sum(lengths),
        "mean_length": sum(lengths) / len(lengths),
        "cut_share": sum(cut) / len(cut),
        "flat_share": sum(len(set(group)) == 1 for group in groups) / len(groups),
    }


if __name__ == "__main__":
    main()
