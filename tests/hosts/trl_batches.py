"""The fixed batch as TRL's trainer holds it, and the gradients that it makes of it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from fixed_batch import GROUP, LONGEST
from trl_problems import is_right

from owpo.hosts.trl import OWPOConfig, OWPOTrainer
from owpo.policy.load import load_policy
from owpo.training.update import TrainingRows


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


def trl_gradients(trainer: OWPOTrainer, parts: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one optimiser step in these micro-batches, of this process."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._count(parts)
    total = 0.0
    for part in parts:
        loss = trainer._compute_loss(trainer.model, part)
        loss.backward()
        total += loss.item()
    model = trainer.accelerator.unwrap_model(trainer.model)
    return total, {name: parameter.grad for name, parameter in model.named_parameters()}
