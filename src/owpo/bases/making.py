"""A base model that knows how a task is written down and mostly makes its mistake.

A small transformer is trained by supervised learning on demonstrations that make the task's mistake with
probability q at each occasion (`owpo.problems.task`). What it learns is a careless pupil's distribution: the
format is right, the mistake is avoided with probability 1 - q, greedy decoding makes it every time. A problem
with c occasions is solved with probability (1 - q)^c, so right samples are rare, never absent, and rarer with
difficulty: what a reinforcement learner needs to find in a base, and what it has to change.

Shape legend: B demonstrations, T tokens of the longest.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from owpo.bases.recipe import BaseRecipe
from owpo.problems.task import Task

FORMAT = 1  # of base.json
_FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
_PAD, _EOS = "<pad>", "<eos>"
_NO_LABEL = -100  # what cross_entropy skips
_WARMUP_STEPS = 20
_FINAL_LR = 0.05  # of the peak, where the cosine ends
# A matrix keeps its input's scale with entries near 1/sqrt(width); the usual 0.02 is made for wide models.
_INIT_STD = 0.12


def make_base(
    recipe: BaseRecipe, folder: Path, *, on_step: Callable[[int, float], None] | None = None
) -> None:
    """Train a base and save it as a Hugging Face folder: config, safetensors, tokenizer and `base.json`.

    Runs on the CPU with torch's present number of threads; the same recipe and number of threads give the
    same weights. Demonstrations come from the train split alone. The files are written to a sibling folder
    that is then renamed, so `folder` is either absent or complete.

    Args:
        on_step: called after each step with its number (1 to `steps`) and loss in nats per response token.

    Raises:
        ValueError: `folder` exists and is not empty.
    """
    _refuse_to_overwrite(folder)
    tokenizer = build_tokenizer(recipe.problems)
    model, final_loss = _train(recipe, tokenizer, on_step)
    record = {"format": FORMAT, "recipe": asdict(recipe), "final_loss": final_loss}
    making = folder.with_name(f".{folder.name}.making-{os.getpid()}")
    making.mkdir(parents=True)
    try:
        model.save_pretrained(making)
        tokenizer.save_pretrained(making)
        assert comes_back(tokenizer, making), (
            f"AutoTokenizer reads another tokenizer from a {recipe.family} folder"
        )
        (making / "base.json").write_text(json.dumps(record, indent=2) + "\n")
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def ensure_base(
    recipe: BaseRecipe, folder: Path, *, on_step: Callable[[int, float], None] | None = None
) -> bool:
    """Make the base unless `folder` already holds it; whether it was made now.

    Raises:
        ValueError: `folder` holds a base of another recipe (with the fields that differ), or another thing.
    """
    record_file = folder / "base.json"
    if not record_file.is_file():
        make_base(recipe, folder, on_step=on_step)
        return True
    # Older records name no task, for there was one.
    found = {"task": "chain_addition"} | _read_record(record_file)
    wanted = json.loads(json.dumps(asdict(recipe)))  # tuples as JSON holds them
    same_task = found["task"] == wanted["task"]
    differing = [
        f"{name} is {found.get(name)!r} there and {wanted.get(name)!r} here"
        for name in (sorted(found.keys() | wanted.keys()) if same_task else ["task"])
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a base of another recipe: {'; '.join(differing)}. "
            "Delete the folder, or choose another path"
        )
    return False


def build_tokenizer(task: Task) -> PreTrainedTokenizerFast:
    """One token a character of the task; <pad> is 0 and <eos> is 1. Other characters raise."""
    vocabulary = {token: index for index, token in enumerate([_PAD, _EOS, *task.characters])}
    # An unknown character is an error and not a guess: its token is not in the vocabulary.
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, padding_side="left"
    )


def comes_back(tokenizer: PreTrainedTokenizerFast, folder: Path) -> bool:
    """Whether AutoTokenizer reads this very tokenizer from `folder`.

    Not a formality: beside the config of some families (qwen2 is one) it puts the family's own tokenizer
    together from the saved files, with other special tokens, and says nothing.
    """

    def identity(tokenizer: Any) -> tuple:
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        return pipeline, tokenizer.special_tokens_map, tokenizer.padding_side, len(tokenizer)

    return identity(AutoTokenizer.from_pretrained(folder)) == identity(tokenizer)


def _train(
    recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast, on_step: Callable[[int, float], None] | None
) -> tuple[Any, float]:
    """The trained model, and the mean loss of the last tenth of the steps."""
    rng = random.Random(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _FAMILIES[recipe.family][1](base_config(recipe, len(tokenizer)))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, recipe.steps))
    losses: list[float] = []
    for step in range(1, recipe.steps + 1):
        token_BT, label_BT = _demonstrations(recipe, tokenizer, rng)
        logits_BTV = model(token_BT, use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), label_BT.flatten(), ignore_index=_NO_LABEL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
    last = losses[-max(1, recipe.steps // 10) :]
    return model.eval(), sum(last) / len(last)


def base_config(recipe: BaseRecipe, vocabulary_size: int) -> LlamaConfig | Qwen3Config:
    """The configuration of the base that a recipe makes, by which its size is known before it is there."""
    return _FAMILIES[recipe.family][0](
        vocab_size=vocabulary_size,
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=max(256, recipe.problems.max_characters),
        tie_word_embeddings=False,
        initializer_range=_INIT_STD,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


def _lr_factor(step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine down to `_FINAL_LR`; `step` counts from 0."""
    warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
    return warmup * (_FINAL_LR + (1 - _FINAL_LR) * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def _demonstrations(
    recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """A batch of (token_BT, label_BT): padded on the right, labels on the response and its <eos> alone.

    No attention mask is needed: padding comes after all that is trained on, and attention is causal.
    """
    task = recipe.problems
    prompts = [task.draw(rng, split="train").prompt for _ in range(recipe.batch)]
    responses = [task.demonstration(prompt, recipe.mistake, rng) + _EOS for prompt in prompts]
    prompt_ids = tokenizer(prompts)["input_ids"]
    response_ids = tokenizer(responses)["input_ids"]
    longest = max(len(p) + len(r) for p, r in zip(prompt_ids, response_ids, strict=True))
    token_BT = torch.zeros(recipe.batch, longest, dtype=torch.long)
    label_BT = torch.full((recipe.batch, longest), _NO_LABEL)
    for row, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        end = len(prompt) + len(response)
        token_BT[row, :end] = torch.tensor(prompt + response)
        label_BT[row, len(prompt) - 1 : end - 1] = torch.tensor(response)  # the token after this position
    return token_BT, label_BT


def _refuse_to_overwrite(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} already holds something; delete it, or choose another path for the base")


def _read_record(record_file: Path) -> dict[str, Any]:
    """The recipe in a base.json, as plain values."""
    try:
        record = json.loads(record_file.read_text())
        found_format, recipe = record["format"], record["recipe"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{record_file} is no record of a base made here; delete its folder, or choose another path"
        ) from error
    if found_format != FORMAT or not isinstance(recipe, dict):
        raise ValueError(
            f"{record_file} has format {found_format!r}, this version reads {FORMAT}; delete its folder, "
            "or choose another path"
        )
    return recipe
