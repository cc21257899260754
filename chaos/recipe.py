"""What the tried runs do: a tiny model on a tiny task, both made on the spot. A run works for a few seconds.

The task: "4,7=" is answered by "4". One-digit numbers leave 100 questions, few enough to be learned in a minute
and enough for three sets.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_CHARACTERS = "0123456789,="
_SIZES = {"train": 70, "selection": 20, "report": 10}


def write_inputs(folder: Path) -> Path:
    """The model and the three problem sets."""
    _write_model(folder / "model")
    questions = [f"{a},{b}=" for a in range(10) for b in range(10)]
    random.Random(0).shuffle(questions)
    for name, size in _SIZES.items():
        lines = [{"id": q, "prompt": q, "answer": q[0]} for q in questions[:size]]
        del questions[:size]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _write_model(folder: Path) -> None:
    """A 2-layer Llama over single characters, with random weights."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{c: i for i, c in enumerate(_CHARACTERS, start=2)}}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<none>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


LEAPFROG, BEST_OF_STAGE = NAMES = "leapfrog", "best_of_stage"
GRADING_LIMIT_S = 5.0

_GATE = {"level": 0.2, "max_tail_growth": 4.0, "max_truncated_rise": 1.0, "max_kl": 50.0}
_RATCHETS: dict[str, dict[str, Any]] = {
    "leapfrog": {"protocol": "leapfrog", "stages": 3, "first_steps": 6, "steps": 6, "gate": _GATE},
    "best_of_stage": {"protocol": "best_of_stage", "stages": 3, "steps": 6, "gate": _GATE},
}
_VERIFIERS = {
    "leapfrog": {"kind": "exact"},
    "best_of_stage": {"kind": "numeric", "workers": 2, "timeout": GRADING_LIMIT_S},
}


def write_recipe(name: str, inputs: Path, file: Path) -> Path:
    """The recipe `name`, one of NAMES, for a run folder "run" in the working directory."""
    data = {
        "seed": 1,
        "run": {"folder": "run", "checkpoint_every": 2 if name == "leapfrog" else 1, "threads": 1},
        "model": {"path": str(inputs / "model")},
        "problems": {set_: {"kind": "jsonl", "path": str(inputs / f"{set_}.jsonl")} for set_ in _SIZES},
        "verifier": _VERIFIERS[name],
        "rollout": {"prompts": 12, "group_size": 32, "max_new_tokens": 4, "max_rounds": 2, "batch_size": 96},
        "objective": {"name": "owpo"},
        "training": {"learning_rate": 1e-2, "warmup_updates": 1, "weight_decay": 0.0, "micro_batch_tokens": 512},
        "ratchet": _RATCHETS[name],
        "alarms": {"patience": 2, "max_saturated_share": 0.3},
        "evaluation": {"every": 2, "samples": 8, "report_samples": 16},
    }  # fmt: skip
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in data.items()), encoding="utf-8")
    return file


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)
