"""One fixed batch, as TRL's trainer holds it and as the local engine does, and the gradients of either."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from conftest import CHARACTERS
from datasets import Dataset
from trl_problems import is_right

from owpo.core.deviation import top_active
from owpo.core.reduce import StepCounts
from owpo.hosts.trl import OWPOConfig, OWPOTrainer
from owpo.policy.load import load_policy
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.responses import Responses
from owpo.training.update import TrainingRows, accumulate_gradients

GROUP, LONGEST = 4, 6
LENGTHS = [6, 2, 4, 1, 3, 3, 5, 2, 1, 6, 6, 4]  # three groups; the last is all right
RIGHT = [1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1]
PROMPTS = ["5=", "12+3=", "7="]
"""Of different lengths, so that TRL pads them."""


def digits(asked: Iterable[str] = "0123456789" * 4) -> list[dict]:
    return [{"prompt": f"{digit}=", "digit": digit} for digit in asked]


def trainer_of(model: Path, folder: Path, peft_config=None, rows=None, given=None, **settings) -> OWPOTrainer:
    """A trainer on the CPU that does not save or report of itself.

    Args:
        rows: of the data set, or a data set.
        given: what else the trainer is given, or in another's place.
    """
    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": GROUP, "num_generations": GROUP,
        "gradient_accumulation_steps": 3, "max_completion_length": LONGEST, "learning_rate": 1e-2, "max_steps": 4,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False, "logging_steps": 1,
        "lr_scheduler_type": "constant", "model_init_kwargs": {"dtype": "float32"}, "disable_tqdm": True,
    }  # fmt: skip
    policy = load_policy(str(model))
    rows = digits() if rows is None else rows
    return OWPOTrainer(
        **{
            "model": str(model),
            "reward_funcs": is_right,
            "args": OWPOConfig(**{**defaults, **settings}),
            "train_dataset": Dataset.from_list(rows) if isinstance(rows, list) else rows,
            "eval_dataset": Dataset.from_list(digits("01")),
            "processing_class": policy.tokenizer,
            "peft_config": peft_config,
            **(given or {}),
        }
    )


def in_two_processes(script: str, *arguments: object) -> None:
    """A script of this folder by torchrun, to its end."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0",
            "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(here / script), *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def fixed_rows(model: Path, reference: Path, dtype: str = "float32") -> TrainingRows:
    """The batch for the local engine, its log-probs from the model and the reference but for some noise."""
    policy, other = load_policy(str(model), dtype=dtype), load_policy(str(reference), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    prompts = [policy.encode(text) for text in PROMPTS]
    lengths = torch.tensor(LENGTHS)
    mask = torch.arange(LONGEST) < lengths.unsqueeze(1)
    tokens = torch.randint(1, len(CHARACTERS) + 2, mask.shape, generator=generator) * mask
    responses = Responses(
        prompts=[prompts[row // GROUP] for row in range(len(LENGTHS))], tokens=tokens, mask=mask,
        sampler_logp=torch.zeros(mask.shape), truncated=lengths == LONGEST,
    )  # fmt: skip
    right = torch.tensor(RIGHT, dtype=torch.float32).view(-1, GROUP)
    advantage = right - right.mean(dim=1, keepdim=True)
    old = reference_logprobs(policy, responses, 1.0, 10_000)
    old = old + 0.3 * torch.randn(old.shape, generator=generator)
    return TrainingRows(
        responses=responses,
        group=torch.arange(len(LENGTHS)) // GROUP,
        advantage=advantage.flatten(),
        active=top_active(advantage, 2).flatten(),
        old_logp=old * mask,
        ref_logp=reference_logprobs(other, responses, 1.0, 10_000),
        step=0,
    )


def as_trl(rows: TrainingRows, trainer: OWPOTrainer, index: Sequence[int]) -> dict:
    """These rows as `_prepare_inputs` gives them: prompts padded at the left, responses at the right."""
    responses = rows.responses
    width = max(len(prompt) for prompt in responses.prompts)
    prompts = [responses.prompts[row] for row in index]
    pad = trainer.processing_class.pad_token_id
    return {
        "prompt_ids": torch.tensor([[pad] * (width - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": responses.tokens[index],
        "completion_mask": responses.mask[index].int(),
        "advantages": rows.advantage[index],
        "active": rows.active[index],
        "group": rows.group[index],
        "ref_per_token_logps": rows.ref_logp[index],
        "old_per_token_logps": rows.old_logp[index],
    }


def local_gradients(
    model: Path, rows: TrainingRows, objective, reduction: str | None, dtype: str = "float32"
) -> tuple[float, list]:
    policy = load_policy(str(model), dtype=dtype)
    lengths = rows.responses.lengths
    group_tokens = torch.zeros(3, dtype=lengths.dtype).index_add_(0, rows.group, lengths)
    counts = StepCounts(tokens=int(lengths.sum()), sequences=len(lengths), prompts=3, max_tokens=LONGEST)
    loss, *_ = accumulate_gradients(
        policy, objective, replace(rows), [torch.arange(len(lengths))],
        reduction=reduction or objective.scaffold.reduction, counts=counts,
        prompt_tokens=group_tokens[rows.group], temperature=1.0,
    )  # fmt: skip
    return loss, [parameter.grad for parameter in policy.model.parameters()]


def trl_gradients(trainer: OWPOTrainer, parts: list[dict]) -> tuple[float, list]:
    """Loss and gradients of one optimiser step in these micro-batches, of this process."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._count(parts)
    total = 0.0
    for part in parts:
        loss = trainer._compute_loss(trainer.model, part)
        loss.backward()
        total += loss.item()
    return total, [
        parameter.grad for parameter in trainer.accelerator.unwrap_model(trainer.model).parameters()
    ]
